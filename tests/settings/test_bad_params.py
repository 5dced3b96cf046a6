"""Property tests over params.yaml files that are wrong in one place: one line that names the key."""

import copy
import os
import re
import subprocess
import sys

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realera.settings.config import RESERVED, Params, load_params
from realera.settings.errors import ConfigError
from realera.settings.presets import load_preset, load_words
from stages import mine, plan

GOOD = load_params().model_dump(mode="json")
LEAVES = [
    (section, key) for section, values in GOOD.items() if isinstance(values, dict) for key in values if key != "images"
]
LEAVES += [("generate", "images", key) for key in GOOD["generate"]["images"]]
FLOATS = [place for place in LEAVES if isinstance(GOOD[place[0]].get(place[1]), float)]
WHOLE = [place for place in LEAVES if place[1] == "images" or type(GOOD[place[0]][place[1]]) is int]
NOT_TEXT = (("judge", "style"), ("sampler", "M"), ("sampler", "N"))
"""Text in params.yaml that may be null, or a number."""
TEXTS = [place for place in LEAVES if isinstance(GOOD[place[0]].get(place[1]), str) and place not in NOT_TEXT]
INNER = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "params.yaml"
        data = content if isinstance(content, bytes) else yaml.safe_dump(content).encode()
        path.write_bytes(data)
        return path

    return write


def changed(place, value) -> dict:
    params = copy.deepcopy(GOOD)
    target = params
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    return params


def message(path) -> str:
    """Return what is said of a file that must be refused, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        load_params(path)
    text = str(caught.value)
    assert text.isprintable()
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


def test_the_good_parameters_are_good(write):
    assert load_params(write(GOOD)) == Params.model_validate(load_params().model_dump())


@INNER
@given(st.sampled_from(FLOATS), st.floats(1e-12, 0.09), st.booleans())
def test_text_as_dvc_writes_it_is_a_number(write, place, value, as_text):
    mantissa, exponent = f"{value:.2e}".split("e")
    text = f"{mantissa[0]}e{exponent}"  # 3e-05, which YAML 1.1 reads as text
    params = changed(place, "MARK")
    if place == ("sampler", "D1"):  # stays the larger one
        params["sampler"]["D1_anchor"] = 0
    if place == ("sampler", "S1"):
        params["sampler"]["S2"] = -0.5
    if place == ("sampler", "D2"):
        params["sampler"]["N"] = 0
    content = yaml.safe_dump(params).replace("MARK", f"'{text}'" if as_text else text)
    assert getattr(getattr(load_params(write(content.encode())), place[0]), place[1]) == float(text)


@INNER
@given(st.sampled_from(FLOATS), st.text("abcxyz%", min_size=1, max_size=6))
def test_other_text_is_no_number(write, place, value):
    found = message(write(changed(place, value)))
    if value not in ("nan", "inf"):
        assert found == f'{".".join(place)}: found "{value}"; accepted: number'


@INNER
@given(st.sampled_from(FLOATS), st.sampled_from([float("nan"), float("inf"), -float("inf"), "nan", "-inf", "Infinity"]))
def test_only_finite_numbers(write, place, value):
    assert message(write(changed(place, value))).endswith("; accepted: finite number")


@INNER
@given(
    st.sampled_from(WHOLE),
    st.one_of(st.booleans(), st.integers(max_value=-1), st.integers(min_value=10**30), st.floats(2, 9), st.text()),
)
def test_whole_numbers_in_range_only(write, place, value):
    if place[-1] == "seed" and place[0] in ("sampler", "lora", "score") and isinstance(value, int) and value > 1:
        return  # these are hashed: any seed is one
    assert message(write(changed(place, value))).startswith(f"{'.'.join(place)}: found ")


@INNER
@given(st.sampled_from(TEXTS), st.one_of(st.none(), st.integers(), st.booleans(), st.just("")))
def test_text_where_text_belongs(write, place, value):
    assert message(write(changed(place, value))).startswith(f"{'.'.join(place)}: found ")


@INNER
@given(st.sampled_from(LEAVES))
def test_no_key_may_be_missing(write, place):
    params = changed(place, None)
    target = params[place[0]] if len(place) == 2 else params[place[0]][place[1]]
    del target[place[-1]]
    assert message(write(params)) == f"{'.'.join(place)}: missing; it is needed"


@INNER
@given(
    st.sampled_from(
        [(), *((section,) for section, values in GOOD.items() if isinstance(values, dict)), ("generate", "images")]
    ),
    st.text("abcdefg_", min_size=1, max_size=9),
)
def test_no_unknown_key_at_any_depth(write, place, key):
    params = changed((*place, key), 1)
    found = message(write(params))
    assert found.startswith(f"{'.'.join((*place, key))}: unknown key; ")
    assert "accepted: " in found


@INNER
@given(st.sampled_from(LEAVES), st.data())
def test_no_key_twice(write, place, data):
    lines = yaml.safe_dump(GOOD, default_flow_style=False).splitlines()
    index = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{place[-1]}:"))
    again = data.draw(st.sampled_from(["1", "null", "[]"]))
    indent = " " * (len(lines[index]) - len(lines[index].lstrip()))
    lines.insert(index, f"{indent}{place[-1]}: {again}")
    assert message(write("\n".join(lines).encode())).startswith(f"not YAML: the key '{place[-1]}' is given twice")


@INNER
@given(st.floats(0.01, 5), st.floats(0.01, 5), st.floats(0.01, 5), st.floats(-1, 1), st.floats(-1, 1), st.booleans())
def test_contradictory_thresholds(write, d1, d1_anchor, d2, s1, s2, has_beyond):
    values = {"D1": d1, "D1_anchor": d1_anchor, "D2": d2, "S1": s1, "S2": s2, "N": int(has_beyond)}
    path = write(GOOD | {"sampler": GOOD["sampler"] | values})
    if s1 > -1 and s2 < s1 and d1_anchor <= d1 and (d2 > d1 or not has_beyond):
        load_params(path)
    else:
        assert message(path).startswith("sampler")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"D1_anchor": 0.3}, "accepted: D1_anchor no larger than D1 = 0.25, found 0.3"),
        ({"D2": 0.25}, "accepted: D2 larger than D1 = 0.25 (beyond lies outside), found 0.25"),
        ({"S2": 1.0}, "sampler.S2: found 1.0; accepted: less than 1"),
        ({"S1": 0.5, "S2": 0.5}, "accepted: S2 smaller than S1 = 0.5 (S1 is the upper cosine), found 0.5"),
    ],
)
def test_contradictions_name_both_keys(write, values, expected):
    assert message(write(GOOD | {"sampler": GOOD["sampler"] | values})).endswith(expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "found null; accepted: keys with values"),
        (b"[1, 2]", "found [1, 2]; accepted: keys with values"),
        (b"model", 'found "model"; accepted: keys with values'),
        (b"\xff\xfe\x00", "not YAML: "),
        (b"a: [", "not YAML: while parsing"),
        (b"a: \t- b: : c", "not YAML: "),
        (b"a: 2020-99-99", "not YAML: month must be"),
        (b"a: " + b"9" * 5000, "not YAML: Exceeds the limit"),
        (b"a: &a [*a]", "not YAML: maximum recursion depth"),
        (b"a: " + b"[" * 5000, "not YAML: "),
        (b"a: !!python/object/apply:os.system [echo]", "not YAML: could not determine a constructor"),
        ("a: 1\n\ufeff\nb: 1".encode(), "not YAML: while scanning a simple key"),
        (b"? [a, b]\n: 1", "not YAML: while constructing a mapping"),
    ],
)
def test_a_file_that_is_no_parameters(write, content, expected):
    assert message(write(content)).startswith(expected)


@INNER
@given(st.one_of(st.recursive(st.none() | st.text() | st.floats() | st.dates(), lambda x: st.lists(x, max_size=3))))
def test_anything_for_a_section(write, value):
    for line in ("sampler", "concepts"):
        if not (line == "concepts" and isinstance(value, list) and value):
            assert message(write(changed((line,), value))).startswith(line)


NAMES = st.one_of(
    st.sampled_from(["..", ".", "", "../..", "/etc", "a/b", "a\\b", "A", " a", "a\n", "-a", "~", "a;ls", *RESERVED]),
    st.text(min_size=1).filter(lambda name: not re.fullmatch("[a-z0-9][a-z0-9_-]*", name)),
)


@INNER
@given(NAMES)
def test_no_concept_leaves_its_folder(write, name):
    assert message(write(GOOD | {"concepts": [name]})).startswith("concepts")


@pytest.mark.parametrize(
    ("concepts", "expected"),
    [
        ([], "concepts: found []"),
        (["cat", "cat"], "accepted: each name once, found 'cat' again"),
        ("cat", 'found "cat"'),
    ],
)
def test_the_list_of_concepts(write, concepts, expected):
    assert expected in message(write(GOOD | {"concepts": concepts}))


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "data/prompts").mkdir(parents=True)
    (tmp_path / "data/concepts").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("synonyms", "expected"),
    [(["plane", "plane"], "found 'plane' again"), ([" "], "words that are not blank"), ("plane", "synonyms.airplane")],
)
def test_synonyms(project, synonyms, expected):
    preset = load_preset("airplane").model_dump(mode="json") | {"synonyms": {"airplane": synonyms}}
    (project / "data/concepts/airplane.yaml").write_text(yaml.safe_dump(preset))
    with pytest.raises(ConfigError, match=r"airplane\.yaml: synonyms") as caught:
        load_preset("airplane")
    assert expected in str(caught.value)


@pytest.mark.parametrize("words", [["cat", "cat"], ["cat", ""], "cat", [1]])
def test_word_lists(project, words):
    (project / "data/prompts/words.yaml").write_text(yaml.safe_dump({"cifar10": words}))
    with pytest.raises(ConfigError, match=r"data/prompts/words\.yaml: .*accepted: "):
        load_words("cifar10")


@pytest.mark.parametrize("stage", [lambda: mine.main("cat"), plan.main])
def test_stages_say_each_problem_in_a_line(project, capsys, stage):
    params = changed(("sampler", "M"), "many")
    params["lora"]["rank"] = True
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(SystemExit) as stopped:
        stage()
    assert stopped.value.code == 1
    assert capsys.readouterr().err.splitlines() == [
        'error: params.yaml: sampler.M: found "many"; accepted: whole number from 0 to 1,000,000, or inf',
        "error: params.yaml: lora.rank: found true; accepted: integer",
    ]
    assert not (project / "artifacts").exists()


@pytest.mark.parametrize(
    ("concept", "change", "expected"),
    [
        (
            "airplane",
            {"M": -1},
            "error: params.yaml: sampler.M: found -1; accepted: whole number from 0 to 1,000,000, or inf\n",
        ),
        (
            "../../tmp",
            {},
            "error: concepts: found '../../tmp'; accepted: names of files in data/concepts, without .yaml\n",
        ),
        ("airplane", {}, "error: artifacts/airplane/prompts.parquet: a file is needed here, found nothing\n"),
    ],
)
def test_a_real_process(project, repository, concept, change, expected):
    (project / "params.yaml").write_text(yaml.safe_dump(GOOD | {"sampler": GOOD["sampler"] | change}))
    command = [sys.executable, str(repository / "stages/mine.py"), concept]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ, timeout=300)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", expected)
    assert sorted(path.name for path in project.iterdir()) == ["data", "params.yaml"]
