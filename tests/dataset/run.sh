#!/usr/bin/env bash
# A real data set goes in, is counted, searched, changed in transactions, comes out, and is compared byte for byte.
#
# The data: which network announces which addresses of the internet, 515,158 ranges of IPv4 and IPv6 addresses, npm package
# @ip-location-db/asn (RouteViews, NRO and DB-IP, CC BY 4.0). Needs npm, node and a network, once: what was fetched stays in
# target/dataset. Run it as `just dataset`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
package=@ip-location-db/asn@2.3.2026061719
work=$PWD/target/dataset
bin=${QUANTADB_BIN:-$PWD/target/release}
mkdir -p "$work"

[[ -n ${QUANTADB_BIN:-} ]] || cargo build --release --quiet --bins

if [[ ! -d $work/package ]]; then
    echo "== fetching $package"
    (cd "$work" && npm pack --silent "$package" > name && tar xzf "$(cat name)")
fi

echo "== the data set"
node tests/dataset/ranges.mjs convert "$work/package/asn-ipv4.csv" "$work/package/asn-ipv6.csv" > "$work/rows.jsonl"
rows=$(wc -l < "$work/rows.jsonl")
printf '%d rows, %d bytes of JSON Lines; the first:\n' "$rows" "$(stat -c %s "$work/rows.jsonl")"
head -1 "$work/rows.jsonl"
((rows >= 300000)) || { echo "too few rows"; exit 1; }

coproc SERVER { exec "$bin/quantadb" serve --memory --listen 127.0.0.1:0 --peer-listen none --admin-listen none 2> "$work/log"; }
trap 'kill $server 2> /dev/null || true' EXIT
server=$SERVER_PID
read -r line <&"${SERVER[0]}"
[[ $line =~ listen=([^ ]+) ]]
address=${BASH_REMATCH[1]}
ctl() { "$bin/quantactl" --addr "$address" "$@"; }

echo "== import"
ctl import "$work/rows.jsonl"

echo "== count"
time counted=$(ctl scan --count)
[[ $counted == "$rows" ]] || { echo "counted $counted of $rows"; exit 1; }

echo "== scan: who announces 1.1.1.1? The last range that begins at or before it"
ctl scan --reverse --start 4/ --end 4/01010102 --limit 1 --output raw

echo "== the whole, before any change"
node tests/dataset/ranges.mjs expect "$work/rows.jsonl" > "$work/expected.jsonl"
ctl export "$work/exported.jsonl"
cmp "$work/expected.jsonl" "$work/exported.jsonl"
echo "the export equals the data set"

echo "== changes in interactive transactions, over a plain socket, from four connections at once"
node tests/dataset/ranges.mjs change "$address" "$work/rows.jsonl"

echo "== the whole, after them"
node tests/dataset/ranges.mjs expect-changed "$work/rows.jsonl" > "$work/expected.jsonl"
ctl export "$work/exported.jsonl"
cmp "$work/expected.jsonl" "$work/exported.jsonl"
echo "the export equals the data set with the changes"

echo "== memory"
ctl status --output raw | grep -E '^(version|memory_bytes)'
kill -TERM "$server"
wait "$server"
trap - EXIT
echo "the server ended cleanly"
