#!/bin/sh
# Take pictures of pages of the site with a headless Chromium, at the width of a desktop and of a phone.
#
#     docs/screenshots.sh [--help] [FOLDER [PAGE...]]
#
# FOLDER is what `make docs` or `make docs-quick` has built: docs/_build/html, or else docs/_build/quick.
# PAGE is a path in it; without one, the front page, an API page, an example and a page on explanations.
# The pictures are in docs/_build/screenshots/. CHROMIUM names the browser, if it is not on the PATH.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
if [ "${1:-}" = --help ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit 0
fi

browser=${CHROMIUM:-}
for name in chromium chromium-browser google-chrome chrome; do
    [ -n "$browser" ] || browser=$(command -v "$name" || true)
done
if [ -z "$browser" ]; then
    echo "No Chromium found. Install one (Debian: apt-get install chromium), or set CHROMIUM to its path." >&2
    exit 1
fi

folder=${1:-$here/_build/html}
[ $# -gt 0 ] && shift
[ -d "$folder" ] || folder=$here/_build/quick
if [ ! -f "$folder/index.html" ]; then
    echo "No pages in $folder. Build them with make docs." >&2
    exit 1
fi
folder=$(cd "$folder" && pwd)
[ $# -gt 0 ] || set -- index.html generated/skbert.BertSentimentClassifier.html \
    auto_examples/plot_quickstart.html guide/explanations.html

pictures=$here/_build/screenshots
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
mkdir -p "$pictures"

# Chromium lays no page out below 500 pixels, so the phone is a frame of 400 pixels in a page.
frame=$profile/phone.html
for page in "$@"; do
    if [ ! -f "$folder/$page" ]; then
        echo "No page $page in $folder." >&2
        exit 1
    fi
    name=$(echo "${page%.html}" | tr / -)
    printf '<body style="margin:0"><iframe src="file://%s" style="border:0;width:400px;height:1600px">' \
        "$folder/$page" >"$frame"
    for shot in "desktop 1400,1600 file://$folder/$page" "phone 400,1600 file://$frame"; do
        set -f
        # shellcheck disable=SC2086
        set_width() { width=$1 size=$2 url=$3; }
        set_width $shot
        set +f
        "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$profile" \
            --allow-file-access-from-files --virtual-time-budget=8000 --window-size="$size" \
            --screenshot="$pictures/$name-$width.png" "$url" 2>"$profile/log" ||
            { cat "$profile/log" >&2; exit 1; }
        echo "docs/_build/screenshots/$name-$width.png"
    done
done
