#!/usr/bin/env bash
# dvc 3.67.1: in a project that lies in a folder of a git repository (dvc init --subdir), a stage may name the folder
# above as its working directory (wdir: ..), and status, dag, stage list and a dry run take it; the run itself stops,
# after the command has run: "stage working dir '...' is outside of DVC repo". A command that goes up by itself
# (cmd: cd .. && ...) with paths relative to the project works, dependencies outside of the project included.
#
# Output seen:
#   status, dag, stage list and a dry run: accepted
#   repro: ran the command, then refused: stage working dir is outside of DVC repo
#   repro with 'cd ..': accepted
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check dvc==3.67.1
export PATH="$folder/venv/bin:$PATH" DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR="$folder/site"
git init --quiet "$folder/repository"
cd "$folder/repository"
mkdir inner
echo 1 >outside.txt
cd inner
dvc init --quiet --subdir

cat >dvc.yaml <<'YAML'
stages:
  copy:
    wdir: ..
    cmd: cp outside.txt inner/out.txt
    deps: [outside.txt]
    outs: [inner/out.txt]
YAML
dvc status >/dev/null
dvc dag >/dev/null
dvc stage list >/dev/null
dvc repro --dry >/dev/null 2>&1
echo "status, dag, stage list and a dry run: accepted"
if dvc repro >log 2>&1; then
    echo "repro took it" >&2
    exit 1
fi
grep -q "is outside of DVC repo" log
test -f out.txt
echo "repro: ran the command, then refused: stage working dir is outside of DVC repo"

rm out.txt
cat >dvc.yaml <<'YAML'
stages:
  copy:
    cmd: cd .. && cp outside.txt inner/out.txt
    deps: [../outside.txt]
    outs: [out.txt]
YAML
dvc repro >log 2>&1
dvc repro >again 2>&1
grep -q "didn't change, skipping" again
echo "repro with 'cd ..': accepted"
