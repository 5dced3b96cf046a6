#!/usr/bin/env bash
# dvc 3.67.1: an object of the cache whose bytes are damaged and which is still read-only (as DVC leaves it, so what a
# failing disk does) is trusted. `dvc checkout` hands the damaged bytes out, `dvc status` calls all of it up to date, and
# forcing the stage does not mend it: the command runs and writes a good file, DVC hashes that, finds an object of this
# hash in the cache and puts the damaged one in place of the good file. Only removing the object helps. (An object that
# can be written to is hashed anew, found damaged and dropped: where one tries this out with chmod, all looks well.)
#
# Output seen:
#   after dvc checkout: b'\x00\x00\x00\x00'
#   dvc status: Data and pipelines are up to date.
#   after dvc repro --force: b'\x00\x00\x00\x00'
#   after removing the object, dvc repro --force and dvc checkout: b'good'
set -euo pipefail
folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check dvc==3.67.1
export PATH="$folder/venv/bin:$PATH" DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR="$folder/site"
git init --quiet "$folder/repository"
cd "$folder/repository"
dvc init --quiet
cat >dvc.yaml <<'YAML'
stages:
  work:
    cmd: printf good > out
    outs: [out]
YAML
dvc repro --quiet

object=$(find .dvc/cache/files -type f)
chmod u+w "$object"
printf '\0\0\0\0' >"$object"
chmod a-w "$object" # as it was: the same size, the same mode, other bytes
shown() { python3 -c "print(open('out', 'rb').read())"; }
rm -f out
dvc checkout --quiet
first=$(shown)
status=$(dvc status)
dvc repro --quiet --force
second=$(shown)
rm -f "$object" out
dvc repro --quiet --force
rm -f out
dvc checkout --quiet
third=$(shown)
echo "after dvc checkout: $first"
echo "dvc status: $status"
echo "after dvc repro --force: $second"
echo "after removing the object, dvc repro --force and dvc checkout: $third"
zeros="b'\\x00\\x00\\x00\\x00'"
[ "$first" = "$zeros" ] && [ "$second" = "$zeros" ] && [ "$third" = "b'good'" ]
[ "$status" = "Data and pipelines are up to date." ]
echo "as described"
