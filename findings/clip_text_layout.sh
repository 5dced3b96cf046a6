#!/usr/bin/env bash
# transformers: a CLIP text encoder that a new version has made and saved is read by earlier ones as random numbers.
#
# Versions: saved by transformers 5.23.0 (huggingface_hub 2.4.0, tokenizers 0.23.3); read by 4.44.2
#   (0.25.2, 0.19.1), by 5.5.4 and by 5.6.0 (both with 1.5.0, 0.22.2); torch 2.13.0 for the CPU, Python 3.11.
# Behaviour: since 5.6.0 CLIPTextModel has no inner `text_model`, so the names in model.safetensors lack that prefix
#   (a model opened from names that have it is saved with it again). Earlier versions know no name in the file, warn
#   that weights are "newly initialized" and return a model of random numbers; no error is raised, and diffusers
#   0.30.3 passes the model on. 5.6.0 and later read both namings. A tokenizer saved by 5.23.0 has no vocab.json and
#   no merges.txt; 4.44.2 raises TypeError.
# Output seen:
#   transformers 5.23.0 saved 20 weights, the first is embeddings.position_embedding.weight
#   transformers 5.23.0 saved the tokenizer as tokenizer.json, tokenizer_config.json
#   transformers 4.44.2 read the text encoder without an error, as random numbers
#   transformers 4.44.2 raised TypeError for the tokenizer
#   transformers 5.5.4 read the text encoder without an error, as random numbers
#   transformers 5.6.0 read the text encoder without an error, as saved
#   as described
#
# Usage: findings/clip_text_layout.sh; `PYTHON` names an interpreter that has torch and transformers' other needs.
# Exits with 1 if a version behaves otherwise. Fetches packages only.
set -euo pipefail

python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1 HF_HOME="$work/home" PIP_DISABLE_PIP_VERSION_CHECK=1

install() { # folder, packages
    "$python" -m pip install --quiet --no-deps --target "$work/$1" "${@:2}"
}
install new transformers==5.23.0 huggingface_hub==2.4.0 tokenizers==0.23.3
install old transformers==4.44.2 huggingface_hub==0.25.2 tokenizers==0.19.1
install before transformers==5.5.4
install since transformers==5.6.0
install both huggingface_hub==1.5.0 tokenizers==0.22.2 httpx==0.28.1 httpcore==1.0.9 h11==0.16.0

cat >"$work/save.py" <<'PYTHON'
import sys
import torch
import transformers
from pathlib import Path
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

folder = Path(sys.argv[1])
torch.manual_seed(0)
config = CLIPTextConfig(vocab_size=10, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
model = CLIPTextModel(config).eval()
model.save_pretrained(folder)
vocabulary = {"a</w>": 0, "b</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}
CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
torch.save(model(torch.tensor([[2, 0, 1, 3]])).last_hidden_state, folder / "expected.pt")
with safe_open(folder / "model.safetensors", "pt") as file:
    names = sorted(file.keys())
print(f"transformers {transformers.__version__} saved {len(names)} weights, the first is {names[0]}")
print(f"transformers {transformers.__version__} saved the tokenizer as {', '.join(sorted(p.name for p in folder.glob('*tok*')))}")
sys.exit(any(name.startswith("text_model.") for name in names) or (folder / "vocab.json").exists())
PYTHON

cat >"$work/read.py" <<'PYTHON'
import sys
import torch
import transformers
from transformers import CLIPTextModel

folder, wanted = sys.argv[1:]
expected = torch.load(f"{folder}/expected.pt")
found = []
for seed in (1, 2):
    torch.manual_seed(seed)
    model = CLIPTextModel.from_pretrained(folder).eval()
    found.append(model(torch.tensor([[2, 0, 1, 3]])).last_hidden_state)
if torch.equal(found[0], found[1]):
    what = "as saved" if torch.allclose(found[0], expected, atol=1e-6) else "as something else"
else:
    what = "as random numbers"
print(f"transformers {transformers.__version__} read the text encoder without an error, {what}")
sys.exit(what != wanted)
PYTHON

cat >"$work/tokenizer.py" <<'PYTHON'
import sys
import transformers
from transformers import CLIPTokenizer

try:
    CLIPTokenizer.from_pretrained(sys.argv[1])
    what = "nothing"
except Exception as error:
    what = type(error).__name__
print(f"transformers {transformers.__version__} raised {what} for the tokenizer")
sys.exit(what != "TypeError")
PYTHON

run() { # what, packages, script, arguments
    if ! PYTHONPATH=$2 "$python" "$work/$3" "$work/model" "${@:4}" 2>"$work/stderr"; then
        tail -3 "$work/stderr" >&2
        echo "changed: $1" >&2
        exit 1
    fi
}
run "the layout that 5.23.0 saves" "$work/new" save.py
run "4.44.2 and the text encoder" "$work/old" read.py "as random numbers"
run "4.44.2 and the tokenizer" "$work/old" tokenizer.py
run "5.5.4 and the text encoder" "$work/before:$work/both" read.py "as random numbers"
run "5.6.0 and the text encoder" "$work/since:$work/both" read.py "as saved"
echo "as described"
