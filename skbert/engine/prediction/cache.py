"""Caches, keys -> vectors, in the memory of one process or in a folder for many processes.

A key is a hash of everything that a vector depends on, so an entry is never wrong and never
changes. When a cache is full, it removes the oldest entries. A process or thread claims keys before
it computes their vectors, so that no other computes the same. This file does not know the meaning
of the vectors.

A folder contains one SQLite database instead of a file format of skbert: its transactions protect
against concurrent writers and against a writer that is killed. SQLite comes with Python.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from skbert.engine.forks import after_fork
from skbert.engine.warn import warn_user

MEMORY_LIMIT = 2**29  # bytes of vectors in a process

FOLDER_LIMIT = 2**32  # bytes of the database in a folder

# A batch takes seconds, so an older claim comes from a process that was killed. If it does not, two
# processes compute the same batch, which does no harm.
_CLAIM_SECONDS = 120

_POLL_SECONDS = 0.02

_LOCK_SECONDS = 60  # how long to wait for a database that others have locked

_CHUNK = 500  # keys in one query; SQLite before 3.32 allows 999


@dataclass(frozen=True)
class CacheInfo:
    """Hits, misses and size of a cache, counted in texts.

    Attributes
    ----------
    hits : int
        Number of vectors that were in the cache. Equal texts of one call count once.
    misses : int
        Number of vectors that were computed and added.
    size : int
        Number of vectors that the cache contains now.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from skbert import BertEmbeddingTransformer
    >>> with TemporaryDirectory() as folder:
    ...     features = BertEmbeddingTransformer(cache=folder)
    ...     _ = features.fit_transform(["so dull", "what a joy", "so dull"])
    ...     features.cache_info_
    CacheInfo(hits=0, misses=2, size=2)
    """

    hits: int
    misses: int
    size: int


class Cache(Protocol):
    """A cache. A key is 32 bytes, and a vector is a one-dimensional float32 array."""

    def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return the vectors that the cache contains."""

    def claim(self, keys: Sequence[bytes]) -> set[bytes]:
        """Claim the keys that are neither in the cache nor claimed, and return them."""

    def put(self, vectors: dict[bytes, np.ndarray]) -> None:
        """Add vectors, and end the claims on their keys."""

    def release(self, keys: Iterable[bytes]) -> None:
        """End the claims on keys whose computation failed."""

    def count(self, hits: int, misses: int) -> None:
        """Add to the counts of `info`."""

    def info(self) -> CacheInfo:
        """Return the counts so far."""

    def close(self) -> None:
        """Close the files; the entries stay."""


def compute_once(
    cache: Cache,
    keys: Sequence[bytes],
    batches: Callable[[np.ndarray], Iterable[np.ndarray]],
    compute: Callable[[np.ndarray], np.ndarray],
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the vector of each key, from the cache or newly computed, in no fixed order.

    Parameters
    ----------
    cache : Cache
    keys : sequence of bytes
        All keys must be different.
    batches : callable
        Cuts the indices of missing keys into batches to compute.
    compute : callable
        Indices of some keys -> their vectors, shape (n, d), float32.

    Yields
    ------
    tuple of int and ndarray of shape (d,)
        Index of the key, its vector.
    """
    n_computed = 0
    waiting = list(range(len(keys)))
    while waiting:
        missing = []
        for start in range(0, len(waiting), _CHUNK):
            part = waiting[start : start + _CHUNK]
            there = cache.get([keys[i] for i in part])
            yield from ((i, there[keys[i]]) for i in part if keys[i] in there)
            missing += [i for i in part if keys[i] not in there]
        waiting = []
        if not missing:
            break
        for batch in batches(np.array(missing, dtype=np.int64)):
            claimed = cache.claim([keys[i] for i in batch])
            mine = np.array([i for i in batch if keys[i] in claimed], dtype=np.int64)
            waiting += [int(i) for i in batch if keys[i] not in claimed]
            if len(mine):
                vectors = _compute_claimed(cache, keys, mine, compute)
                n_computed += len(mine)
                yield from zip(mine.tolist(), vectors, strict=True)
        if waiting and len(waiting) == len(missing):
            time.sleep(_POLL_SECONDS)
    cache.count(len(keys) - n_computed, n_computed)


def _compute_claimed(
    cache: Cache,
    keys: Sequence[bytes],
    mine: np.ndarray,
    compute: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    try:
        vectors = compute(mine)
    except BaseException:
        cache.release([keys[i] for i in mine])
        raise
    cache.put({keys[i]: vector for i, vector in zip(mine.tolist(), vectors, strict=True)})
    return vectors


class MemoryCache:
    """Vectors in the memory of this process; the least recently used ones are removed first.

    Parameters
    ----------
    limit : int
        Maximum number of bytes of all vectors.
    """

    def __init__(self, limit: int = MEMORY_LIMIT) -> None:
        self._limit = limit
        self._vectors: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._claims: dict[bytes, float] = {}
        self._n_bytes = self._hits = self._misses = 0
        self.renew_lock()

    def renew_lock(self) -> None:
        """Replace the lock, and end all claims: the threads that made them may not exist here."""
        self._lock = threading.Lock()
        self._claims.clear()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return the vectors that the cache contains, and mark them as recently used."""
        with self._lock:
            there = [key for key in keys if key in self._vectors]
            for key in there:
                self._vectors.move_to_end(key)
            return {key: self._vectors[key] for key in there}

    def claim(self, keys: Sequence[bytes]) -> set[bytes]:
        """Claim the keys that are neither in the cache nor claimed, and return them."""
        now = time.time()
        with self._lock:
            mine = {
                key for key in keys if key not in self._vectors and self._claims.get(key, 0.0) < now
            }
            self._claims.update(dict.fromkeys(mine, now + _CLAIM_SECONDS))
        return mine

    def put(self, vectors: dict[bytes, np.ndarray]) -> None:
        """Add vectors, and end the claims on their keys."""
        with self._lock:
            for key, vector in vectors.items():
                self._claims.pop(key, None)
                if key not in self._vectors:
                    self._vectors[key] = vector.copy()
                    self._n_bytes += vector.nbytes
            while self._n_bytes > self._limit:
                _, oldest = self._vectors.popitem(last=False)
                self._n_bytes -= oldest.nbytes

    def release(self, keys: Iterable[bytes]) -> None:
        """End the claims on keys whose computation failed."""
        with self._lock:
            for key in keys:
                self._claims.pop(key, None)

    def count(self, hits: int, misses: int) -> None:
        """Add to the counts of `info`."""
        with self._lock:
            self._hits += hits
            self._misses += misses

    def info(self) -> CacheInfo:
        """Return the counts so far."""
        with self._lock:
            return CacheInfo(self._hits, self._misses, len(self._vectors))

    def close(self) -> None:
        """Do nothing; there are no files."""


#: All estimators of this process with ``cache="memory"`` share this cache.
shared_memory_cache = MemoryCache()
after_fork(shared_memory_cache.renew_lock)

_FILE = "skbert-vectors.sqlite3"

_VERSION = 1  # of the tables

_TABLES = (
    "CREATE TABLE vectors (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, vector BLOB NOT NULL)",
    "CREATE TABLE claims (key BLOB PRIMARY KEY, expires REAL NOT NULL) WITHOUT ROWID",
    "CREATE TABLE counts (hits INTEGER NOT NULL, misses INTEGER NOT NULL)",
    "INSERT INTO counts VALUES (0, 0)",
    f"PRAGMA user_version = {_VERSION}",
)


class FolderCache:
    """Vectors in a folder, for all processes that use it; the oldest ones are removed first.

    The database uses SQLite's write-ahead log, so readers do not wait for the writer. The log needs
    memory that the processes share, so the folder must be on a local disk.

    Parameters
    ----------
    folder : Path
        Created if it does not exist. If it is read-only, skbert reads the vectors that it contains,
        and warns when it cannot add others.
    limit : int
        Maximum number of bytes of the database.

    Raises
    ------
    OSError
        If the database cannot be created or opened.
    """

    def __init__(self, folder: Path, limit: int = FOLDER_LIMIT) -> None:
        self._path = folder / _FILE
        self._limit = limit
        self._error: Exception | None = None  # why nothing more is written
        self._has_warned = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Autocommit: a transaction begins only with BEGIN.
            self._database = sqlite3.connect(
                self._path, timeout=_LOCK_SECONDS, isolation_level=None
            )
            with _closed_on_error(self._database):
                _prepare(self._database)
        except (OSError, sqlite3.Error) as error:
            read_only = _open_read_only(self._path)
            if read_only is not None:
                self._database, self._error = read_only, error
                return
            raise OSError(
                f"Could not open cache={str(folder)!r} ({error}); a writable folder on a local "
                f"disk is expected. Choose another folder, or delete {_FILE!r} in it if that file "
                "is damaged."
            ) from error

    def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return the vectors that the cache contains."""
        rows = self._select("key, vector", "vectors", keys)
        return {key: np.frombuffer(vector, dtype="<f4") for key, vector in rows}

    def claim(self, keys: Sequence[bytes]) -> set[bytes]:
        """Claim the keys that are neither in the cache nor claimed, and return them."""
        mine = set(keys)

        def claim() -> None:
            now = time.time()
            self._database.execute("DELETE FROM claims WHERE expires < ?", [now])
            for table in ("vectors", "claims"):
                mine.difference_update(key for (key,) in self._select("key", table, keys))
            self._database.executemany(
                "INSERT INTO claims VALUES (?, ?)", [(key, now + _CLAIM_SECONDS) for key in mine]
            )

        self._write(claim)
        return mine

    def put(self, vectors: dict[bytes, np.ndarray]) -> None:
        """Add vectors, and end the claims on their keys."""

        def put() -> None:
            self._database.executemany(
                "INSERT OR IGNORE INTO vectors (key, vector) VALUES (?, ?)",
                [(key, vector.astype("<f4").tobytes()) for key, vector in vectors.items()],
            )
            self._delete_claims(vectors)
            self._drop_oldest()

        if self._error is not None and not self._has_warned:
            self._warn_not_stored()
        self._write(put)
        if self._error is not None:  # others must not wait for vectors that never come
            with suppress(sqlite3.Error):
                self._delete_claims(vectors)

    def release(self, keys: Iterable[bytes]) -> None:
        """End the claims on keys whose computation failed."""
        self._write(lambda: self._delete_claims(keys))

    def count(self, hits: int, misses: int) -> None:
        """Add to the counts of `info`."""
        query = "UPDATE counts SET hits = hits + ?, misses = misses + ?"
        self._write(lambda: self._database.execute(query, [hits, misses]))

    def info(self) -> CacheInfo:
        """Return the counts of all processes since the first use of the folder."""
        query = "SELECT hits, misses, (SELECT count(*) FROM vectors) FROM counts"
        return CacheInfo(*self._database.execute(query).fetchone())

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _select(self, columns: str, table: str, keys: Sequence[bytes]) -> list[tuple]:
        rows = []
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            marks = ", ".join("?" * len(chunk))
            query = f"SELECT {columns} FROM {table} WHERE key IN ({marks})"
            rows += self._database.execute(query, chunk).fetchall()
        return rows

    def _delete_claims(self, keys: Iterable[bytes]) -> None:
        self._database.executemany("DELETE FROM claims WHERE key = ?", [(key,) for key in keys])

    def _drop_oldest(self) -> None:
        """If the database exceeds its limit, remove the oldest vectors until 90 % of it is used."""
        pragmas = ("page_count", "freelist_count", "page_size")
        n_pages, n_free, page_size = (
            self._database.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in pragmas
        )
        n_bytes = (n_pages - n_free) * page_size
        if n_bytes > self._limit:
            (n_texts,) = self._database.execute("SELECT count(*) FROM vectors").fetchone()
            n_drop = int(np.ceil(n_texts * (1 - 0.9 * self._limit / n_bytes)))
            self._database.execute(
                "DELETE FROM vectors WHERE id IN (SELECT id FROM vectors ORDER BY id LIMIT ?)",
                [n_drop],
            )

    def _write(self, change: Callable[[], object]) -> None:
        """Make a change in one transaction; if this fails, warn and write nothing from then on."""
        if self._error is not None:
            return
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                change()
                self._database.execute("COMMIT")
            finally:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
        except sqlite3.Error as error:
            self._error = error
            self._warn_not_stored()

    def _warn_not_stored(self) -> None:
        self._has_warned = True
        remedy = "Free some disk space there" if _is_writable(self._path) else "Make it writable"
        warn_user(
            f"Could not add vectors to {str(self._path)!r} ({self._error}). skbert returns them, "
            f"but does not store them. {remedy}, or choose another folder."
        )


def _prepare(database: sqlite3.Connection) -> None:
    """Configure the connection, and create the tables unless another process has."""
    database.execute("PRAGMA synchronous = NORMAL")
    _use_write_ahead_log(database)
    if database.execute("PRAGMA user_version").fetchone()[0] == _VERSION:
        return
    database.execute("BEGIN IMMEDIATE")
    if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
        for statement in _TABLES:
            database.execute(statement)
    database.execute("COMMIT")


def _open_read_only(path: Path) -> sqlite3.Connection | None:
    """Open a database in a read-only folder; None if it is writable, or has no tables.

    "immutable" tells SQLite that nobody can write, so that it needs no log beside the file.
    """
    if not path.is_file() or _is_writable(path):
        return None
    database = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None
    )
    try:
        if database.execute("PRAGMA user_version").fetchone()[0] == _VERSION:
            return database
    except sqlite3.Error:
        pass
    database.close()
    return None


def _is_writable(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _use_write_ahead_log(database: sqlite3.Connection) -> None:
    """Switch to the write-ahead log; retry while it is locked, because SQLite does not wait."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)


@contextmanager
def _closed_on_error(database: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        database.close()
        raise


def cache_info(place: str | Path) -> CacheInfo:
    """Return the counts of a cache without creating it; see `open_cache`."""
    if isinstance(place, Path) and not (place / _FILE).exists():
        return CacheInfo(0, 0, 0)
    with closing(open_cache(place)) as cache:
        return cache.info()


def open_cache(place: str | Path) -> Cache:
    """Open the cache in a folder, given as a Path, or the cache of this process, ``"memory"``."""
    return FolderCache(place) if isinstance(place, Path) else shared_memory_cache
