"""Puts the results of benchmarks/results into tables, printed and in README.md.

`make bench` runs this last. It computes nothing: every number is in a results file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import _common as common
from bench_few_labels import accuracy_tables
from bench_stars import tables as stars_of
from bench_windows import table as windows_table

README = Path(__file__).parent / "README.md"
ANY = "any processor"
#: Benchmarks of accuracies, of which parts may run on different processors.
ACCURACIES = ("few_labels", "pretraining", "stars", "windows")
BEGIN, END = "<!-- results: written by report.py -->", "<!-- end of results -->"


Results = list[dict[str, Any]]


def load_results() -> dict[str, Results]:
    """Read all results files, in the order of their names, grouped by processor."""
    found: dict[str, Results] = {}
    for path in sorted(common.RESULTS.glob("**/*.json")):
        result = json.loads(path.read_text())
        processor = common.plain_name(result["machine"]["processor"])
        is_timed = result["benchmark"] not in ACCURACIES
        found.setdefault(processor if is_timed else ANY, []).append(result)
    return dict(sorted(found.items()))


def bounds_table(found: dict[str, Results]) -> str:
    """One row per claim: the bound, and the result on each processor."""
    rows: dict[tuple[str, str], list[str]] = {}
    for column, results in enumerate(found.values(), 2):
        for bound in (bound for result in results for bound in result["bounds"]):
            sign = "at least" if bound["at_least"] else "at most"
            limit = f"{sign} {bound['limit']:g}"
            claim = (bound["claim"], limit)
            row = rows.setdefault(claim, [*claim, *("" for _ in found)])
            row[column] = f"{bound['value']:.3g}" + ("" if bound["holds"] else ", **no**")
    return common.markdown_table(["claim", "must be", *found], [*rows.values()])


def timings_tables(results: Results) -> list[str]:
    """One table for each benchmark that compares contenders."""
    tables = []
    for result in results:
        for name, contenders in _contenders_of(result):
            rows = []
            for contender, found in contenders.items():
                speedup = next(v for k, v in found.items() if k.startswith("speedup_of_"))
                seconds = found["median_seconds"]
                rate = f"{found['n_texts'] / seconds:.1f}" if found["n_texts"] else ""
                ratio = f"{speedup:.2f} x" if found["n_texts"] else ""
                rows.append([contender, rate, f"{seconds:.3f}", ratio])
            header = ["contender", "texts/s", "median s", "skbert is"]
            tables.append(f"#### {name}\n\n{common.markdown_table(header, rows)}")
    return tables


def latency_table(results: Results) -> list[str]:
    """Table of the time that one text takes."""
    found = next((r["results"] for r in results if r["benchmark"] == "serving"), {})
    rows = [
        [f"{contender}, {name}", *(f"{1000 * of_it[q]:.2f}" for q in ("p50", "p99"))]
        for name, part in found.items()
        if isinstance(part, dict)
        for contender, of_it in part["latency"].items()
    ]
    header = ["one text", "p50 ms", "p99 ms"]
    return [f"#### serving\n\n{common.markdown_table(header, rows)}"] if rows else []


def _contenders_of(result: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found, name = result["results"], result["benchmark"]
    if "contenders" in found:
        return [(name, found["contenders"])]
    return [
        (f"{name}, {kind}", part["contenders"])
        for kind, part in found.items()
        if isinstance(part, dict) and "contenders" in part
    ]


def few_labels_tables(results: Results) -> list[str]:
    """Tables of the accuracy with few labels, one for each set of texts."""
    found = next((r["results"] for r in results if r["benchmark"] == "few_labels"), {})
    return [f"#### few_labels\n\n{table}" for table in accuracy_tables(found)]


def stars_tables(results: Results) -> list[str]:
    """Tables of the mistakes with stars, one for each model."""
    found = next((r["results"] for r in results if r["benchmark"] == "stars"), {})
    return [f"#### stars\n\n{table}" for table in stars_of(found)]


def windows_tables(results: Results) -> list[str]:
    """Table of the accuracy with windows of long reviews."""
    found = next((r["results"] for r in results if r["benchmark"] == "windows"), None)
    return [] if found is None else [f"#### windows\n\n{windows_table(found)}"]


def profile_table(results: Results) -> str:
    """Table of the time that fit and predict spend in each kind of operation."""
    shares = next((r["results"]["shares"] for r in results if r["benchmark"] == "profile"), None)
    if shares is None:
        return ""
    kinds = next(iter(shares.values()))
    rows = [[kind, *(f"{part[kind]:.1%}" for part in shares.values())] for kind in kinds]
    header = ["share of the time", *shares]
    return f"#### Where skbert's own time goes\n\n{common.markdown_table(header, rows)}"


def machines(results: Results) -> str:
    """List machine, date and versions of each benchmark; equal ones once."""
    lines: dict[str, list[str]] = {}
    for result in results:
        here = result["machine"]
        packages = ", ".join(f"{k} {v}" for k, v in result["versions"].items() if k != "skbert")
        line = (
            f"{here['processor']}, {here['cores']} cores, {here['torch_threads']} threads, "
            f"{' '.join(here['flags'])}, {here['memory_gib']} GiB; {packages}"
        )
        dirty = " with changes" if result["dirty"] else ""
        commit = f"commit {(result['commit'] or 'unknown')[:10]}{dirty}"
        lines.setdefault(line, []).append(
            f"{result['benchmark']} ({result['date'][:10]}, {commit})"
        )
    return "\n\n".join(f"{', '.join(names)}: {line}." for line, names in lines.items())


def main() -> None:
    results = load_results()
    if not results:
        raise SystemExit("There are no results yet. Run `make bench` first.")
    parts = [bounds_table(results)]
    for processor, of_it in results.items():
        tables = [
            *timings_tables(of_it),
            *latency_table(of_it),
            *few_labels_tables(of_it),
            *stars_tables(of_it),
            *windows_tables(of_it),
        ]
        tables += [profile_table(of_it), machines(of_it)]
        parts += [f"### {processor}", *tables]
    report = "\n\n".join(part for part in parts if part)
    print(report)
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n\n{report}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
