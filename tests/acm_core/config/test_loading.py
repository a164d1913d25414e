"""Configuration files: what a person reads when one is wrong, and that nothing but ConfigError ever comes out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import Field

from acm_core.config import (
    ConfigError,
    FederationConfig,
    LabelMap,
    ModelConfig,
    Section,
    SiteConfig,
    TrainingConfig,
    dump_config,
    load_config,
)
from acm_core.config.loading import MAX_BYTES

VALID = """\
name: demo
findings: [Pneumonia, Effusion]
privacy: off
model:
  context: se
federation:
  sites: [A, B]
  rounds: 3
training:
  learning_rate: 1e-4
"""


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "demo.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def problems(folder: Path, content: str | bytes, kind: type[Section] = FederationConfig) -> list[str]:
    """The rows of the message without the file's path."""
    path = write(folder, content)
    with pytest.raises(ConfigError) as caught:
        load_config(path, kind)
    rows = str(caught.value).split("\n")
    assert all(row.startswith(str(path)) for row in rows)
    return [row.removeprefix(str(path)) for row in rows]


def test_a_valid_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, VALID), FederationConfig)
    assert config.findings == ("Pneumonia", "Effusion")
    assert config.model.context == "se"
    assert config.federation.rounds == 3
    assert config.training.learning_rate == 1e-4
    assert config.training.batch_size == TrainingConfig().batch_size


def test_every_problem_is_in_one_message_with_its_line(tmp_path: Path) -> None:
    text = """\
name: demo
findings: [Pneumonia, 3]

model:
  contxt: acm
  context: amc
  groups: 0
  image_size: true
federation:
  sites: [A, "B!"]
  rounds: ten
  quorum: 1
  quorum: 2
training:
  epochs:
  batch_size: 2.5
  optimizer: 3
server: [1]
sever: {}
privacy: off
"""
    pattern = "^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$"
    assert problems(tmp_path, text) == [
        ":2: findings[1]: expected text, got 3; put it in quotes",
        ":5: model.contxt: unknown key; did you mean 'context'?",
        ":6: model.context: expected one of acm, acm_mirrored, se, cbam, self_attention, none, got 'amc'; "
        "did you mean 'acm'?",
        ":7: model.groups: expected an integer ≥ 1 and ≤ 2048, got 0",
        ":8: model.image_size: expected an integer ≥ 32 and ≤ 4096, got true",
        f":10: federation.sites[1]: expected text that matches {pattern}, got 'B!'",
        ":11: federation.rounds: expected an integer ≥ 1 and ≤ 100000, got 'ten'",
        ":13: federation.quorum: duplicate key: it stands in line 12 already",
        ":15: training.epochs: expected an integer ≥ 1 and ≤ 10000, got nothing",
        ":16: training.batch_size: expected an integer ≥ 1 and ≤ 65536, got 2.5",
        ":17: training.optimizer: expected one of sgd, adamw, got 3",
        ":18: server: expected a mapping with the keys host, port, names, message_limit, got a list",
        ":19: sever: unknown key; did you mean 'server'?",
    ]


@pytest.mark.parametrize(
    ("text", "row"),
    [
        (
            VALID.replace("  rounds: 3\n", ""),
            ":6: federation.rounds: missing; expected an integer ≥ 1 and ≤ 100000",
        ),
        (VALID.replace("name: demo\n", ""), ":1: name: missing; expected text that matches"),
        (VALID + "zzz: 1\n", ":11: zzz: unknown key; expected one of name, seed, findings, privacy, model,"),
        (
            VALID.replace("[A, B]", "[]"),
            ":7: federation.sites: expected a list of length ≥ 1, got a list without",
        ),
        (VALID.replace("[A, B]", "[A, A]"), ":6: federation: expected each site once, got A, A"),
        (
            VALID.replace("se\n", "ACN\n"),
            ":5: model.context: expected one of acm, acm_mirrored, se, cbam, self_attention, none",
        ),
        (VALID.replace("se\n", "CBAM\n"), "got 'CBAM'; did you mean 'cbam'?"),
        (
            VALID.replace("1e-4", "1e999"),
            ":10: training.learning_rate: expected a number > 0 and ≤ 1000, got '1e999'",
        ),
        (
            VALID.replace("1e-4", ".nan"),
            ":10: training.learning_rate: expected a number > 0 and ≤ 1000, got '.nan'",
        ),
        (
            VALID.replace("rounds: 3", "rounds: '3'"),
            ":8: federation.rounds: expected an integer ≥ 1 and ≤ 100000, got '3'",
        ),
        (VALID.replace("3", "!!python/name:os.system x"), ":8: federation.rounds: expected no tag, got"),
        (VALID.replace("3", "!!int x"), ":8: federation.rounds: expected no tag, got"),
        (VALID + "? [a]\n: 1\n", ":11: expected text as a key"),
        (VALID + 'model: "\\0"\n', ":11: model: duplicate key: it stands in line 4 already"),
        (
            VALID.replace("Effusion", '"a\\ud800"'),
            ":2: findings[1]: expected text, got a NUL or half a surrogate",
        ),
        (
            VALID.replace("Effusion", '"a\\0"'),
            ":2: findings[1]: expected text, got a NUL or half a surrogate",
        ),
        ("- name\n- demo\n", ":1: expected a mapping with the keys name, seed,"),
        ("demo\n", ":1: expected a mapping with the keys name, seed,"),
        ("", ":1: expected keys and values, got an empty file"),
        ("# only a remark\n", ":1: expected keys and values, got an empty file"),
        ("name: demo\nseed: [1\nfindings: x\n", ":3: expected valid YAML:"),
        ("name: demo\n\tseed: 1\n", ":2: expected valid YAML:"),
        ("name: a\n---\nname: b\n", ":2: expected valid YAML:"),
        ("name: demo\nseed: \x07\n", ":2: expected printable text, got the character"),
        ('name: "\\UFFFFFFFF"\n', ":1: expected valid YAML: an escape or a directive is out of range"),
        (b"name: demo\nseed: \xff\n", ":2: expected UTF-8 text, got the byte 0xff"),
    ],
)
def test_what_a_problem_says(tmp_path: Path, text: str | bytes, row: str) -> None:
    assert any(row in found for found in problems(tmp_path, text))


def test_a_refused_value_is_reported_once(tmp_path: Path) -> None:
    assert len(problems(tmp_path, VALID.replace("rounds: 3", "rounds: !!int x"))) == 1


def test_each_problem_is_one_row_whatever_the_file_holds(tmp_path: Path) -> None:
    rows = problems(tmp_path, VALID + '"a\\nb": 1\nseed: "' + "x" * 500 + '"\n')
    assert len(rows) == 2
    assert all(len(row) < 250 for row in rows)


def test_an_alias_bomb_is_refused_at_once(tmp_path: Path) -> None:
    levels = [f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]" for i in range(1, 12)]
    started = time.process_time()
    rows = problems(tmp_path, "\n".join(["k0: &k0 [x]", *levels]))
    assert rows == [":2: expected valid YAML: an alias is not supported, write the value out"]
    assert time.process_time() - started < 1


@pytest.mark.parametrize("text", ["a: &a [*a]", "[" * 60_000, "- " * 30_000, "{a: " * 15_000])
def test_deep_or_recursive_yaml_is_refused_at_once(tmp_path: Path, text: str) -> None:
    started = time.process_time()
    assert len(problems(tmp_path, text)) == 1
    assert time.process_time() - started < 5


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    rows = problems(tmp_path, VALID + "#" * MAX_BYTES)
    assert rows == [f": expected at most {MAX_BYTES} bytes, got more"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dmeo.yaml", "expected a file, got none of that name; did you mean 'demo.yaml'?"),
        ("unlike", "expected a file, got none of that name"),
        ("absent/demo.yaml", "; there is no folder"),
        (".", "expected a readable file: Is a directory"),
        ("a\0b", "expected a readable file: not a file name"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, message: str) -> None:
    write(tmp_path, VALID)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / name, FederationConfig)
    assert message in str(caught.value)


def test_relative_paths_start_at_the_file_and_absolute_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    monkeypatch.chdir(tmp_path)
    Path("configs/A.yaml").write_text("site: A\nfilms: films\nlabels: /data/labels.csv\nstate: ../state\n")
    site = load_config("configs/A.yaml", SiteConfig)
    assert site.films == tmp_path / "configs/films"
    assert site.labels == Path("/data/labels.csv")
    assert site.state == tmp_path / "state"
    Path("configs/f.yaml").write_text(VALID.replace("context: se", "weights: w.safetensors"))
    assert load_config("configs/f.yaml", FederationConfig).model.weights == tmp_path / "configs/w.safetensors"


@pytest.mark.parametrize("word", ["NO", "no", "on", "yes", "1_0", "12:30", "2001-01-01", "0x1f", "=", "<<"])
def test_text_that_yaml_1_1_reads_as_something_else_stays_text(tmp_path: Path, word: str) -> None:
    config = load_config(write(tmp_path, VALID.replace("Effusion", word)), FederationConfig)
    assert config.findings[1] == word


def test_a_byte_order_mark_and_windows_line_ends_are_no_problem(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + VALID.replace("\n", "\r\n").encode()
    assert load_config(write(tmp_path, content), FederationConfig).name == "demo"


class _Nested(Section):
    limits: dict[str, Annotated[int, Field(le=3)]] = Field(default_factory=dict)
    threads: int | None = None
    models: tuple[ModelConfig, ...] = ()


def test_problems_inside_lists_and_mappings_are_located(tmp_path: Path) -> None:
    text = "limits:\n  a: 1\n  b: 9\nthreads: x\nmodels:\n  - {groups: 2}\n  - context: se\n    grups: 2\n"
    assert problems(tmp_path, text, _Nested) == [
        ":3: limits.b: expected an integer ≤ 3, got 9",
        ":4: threads: expected an integer or null, got 'x'",
        ":8: models[1].grups: unknown key; did you mean 'groups'?",
    ]


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NAMES = st.text(
    st.characters(categories=["L", "M", "N", "P", "S"], include_characters=" "), min_size=1, max_size=12
)
ABSOLUTE = st.from_regex(r"/[a-zA-Z0-9 _.:#-]{1,20}", fullmatch=True).map(Path)
SITES = st.lists(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True), min_size=1, max_size=4, unique=True
)
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
RATES = st.floats(min_value=0, exclude_min=True, max_value=1000)
MODELS = st.builds(ModelConfig, context=st.sampled_from(["acm", "none"]), weights=st.none() | ABSOLUTE)
FEDERATIONS = st.builds(
    FederationConfig,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True),
    seed=st.integers(0, 2**31 - 1),
    findings=st.lists(NAMES, min_size=1, max_size=4, unique=True),
    privacy=st.just("off"),
    model=MODELS,
    training=st.builds(TrainingConfig, learning_rate=RATES, augment=st.booleans()),
    federation=st.fixed_dictionaries(
        {"sites": SITES, "rounds": st.integers(1, 99), "round_deadline": POSITIVE}
    ),
)
SITE_FILES = st.builds(
    SiteConfig,
    site=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True),
    films=ABSOLUTE,
    labels=ABSOLUTE,
    state=ABSOLUTE,
    label_map=st.builds(LabelMap, columns=st.dictionaries(TEXT, TEXT, max_size=3)),
    threads=st.none() | st.integers(1, 64),
)


@given(config=st.one_of(FEDERATIONS, SITE_FILES))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_dumped_loads_as_the_same(tmp_path: Path, config: Section) -> None:
    assert load_config(write(tmp_path, dump_config(config)), type(config)) == config


@pytest.mark.parametrize(
    "text", ["\x85", "\u2028x", "\ufeff", " a ", "a\n b", "1e-3", "0o7", "é", "🫁", "#a: b", ""]
)
def test_awkward_text_survives_a_dump(tmp_path: Path, text: str) -> None:
    folder = Path("/site")
    columns = LabelMap(columns={"Nodule": text})
    config = SiteConfig(site="A", films=folder, labels=folder, state=folder, label_map=columns)
    assert load_config(write(tmp_path, dump_config(config)), SiteConfig) == config


@pytest.mark.parametrize(
    "name",
    ["No Finding", "Covid-19", "Épanchement pleural", "Masse (> 3 cm)", "Œdème/surcharge", "肺炎", "x" * 64],
)
def test_findings_have_the_names_that_people_give_them(tmp_path: Path, name: str) -> None:
    text = VALID.replace("Pneumonia", json.dumps(name))
    assert load_config(write(tmp_path, text), FederationConfig).findings[0] == name


@pytest.mark.parametrize(
    "name", ["", "a\nround 9 done", "\x1b[2K", "\x7f", "\x9b2K", "\u202emalignant", "\u2028", "\t", "x" * 65]
)
def test_what_a_terminal_obeys_or_nobody_sees_is_no_finding(tmp_path: Path, name: str) -> None:
    text = VALID.replace("Pneumonia", json.dumps(name))
    (said,) = problems(tmp_path, text)
    assert "findings[0]: expected 1 to 64 printable characters, got" in said
    assert said.isprintable()


LINES = st.lists(
    st.one_of(
        st.sampled_from(VALID.splitlines()),
        st.builds(
            "{}{}{}".format,
            st.sampled_from(["", "  ", "- ", "    "]),
            st.sampled_from(
                ["name: ", "federation: ", "seed: ", "sites: ", "? ", "- ", "&a ", "!!int ", "%YAML ", ""]
            ),
            st.one_of(
                st.text(max_size=8),
                st.sampled_from(["[", "{", "*a", "|", '"\\U', "1" * 5000, "~", "!!set {}"]),
            ),
        ),
    ),
    max_size=9,
).map("\n".join)


@given(content=st.one_of(st.binary(max_size=60), LINES.map(lambda text: text.encode(errors="surrogatepass"))))
@example(b"%YAML " + b"1" * 5000 + b".1\n--- a\n")
@example(b'"\\x"')
@example(b"!<tag:yaml.org,2002:timestamp> 2001-99-99")
@example(b"name: !!bool maybe")
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_a_config_or_a_config_error(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, content)
    try:
        config = load_config(path, FederationConfig)
    except ConfigError as error:
        assert error.problems
        assert str(error).count("\n") == len(error.problems) - 1
    else:
        assert isinstance(config, FederationConfig)
