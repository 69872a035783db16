"""The command line as scripts see it: exit codes, one JSON object on stdout, one paragraph on stderr."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli import main

HEAVY = (
    "numpy",
    "rich",
    "huggingface_hub",
    "modelscope_hub",
    "httpx",
    "openai",
    "jinja2",
    "gguf",
    "tokenizers",
    "xllamacpp",
)


def portside(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would, in a process of its own."""
    command = [sys.executable, "-m", "cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, cli; sys.exit(', '.join(set({HEAVY!r}) & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("verb", sorted(main.commands))
def test_every_verb_explains_itself_and_has_json(verb: str) -> None:
    done = portside(verb, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-verb",),
        ("inspect",),
        ("inspect", "--no-such-option"),
        ("serve", "no-such-engine", "model"),
        ("template", "model", "--to", "latin"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = portside(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["inspect", "template", "gguf", "modelfile", "build"])
def test_a_model_that_is_not_there_is_exit_code_3(verb: str, tmp_path: Path) -> None:
    done = portside(verb, tmp_path / "nowhere", "--json")
    assert done.returncode == 3
    assert "nowhere" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert isinstance(json.loads(done.stdout), dict)


def test_an_unknown_type_is_exit_code_2(sample: Path, tmp_path: Path) -> None:
    done = portside("gguf", sample, "--type", "q9_9", "-o", tmp_path)
    assert done.returncode == 2
    assert "q9_9" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_family_names_the_nearest(sample: Path) -> None:
    done = portside("template", sample, "--template", "family:smollm")
    assert done.returncode in (2, 3)
    assert "smollm2" in done.stderr


def test_inspect_json_has_the_keys_scripts_rely_on(sample: Path) -> None:
    done = portside("inspect", sample, "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found.keys() >= {"name", "architecture", "parameters", "dtype", "stop_ids", "template", "findings"}
    assert found["architecture"] == "LlamaForCausalLM"
    assert found["parameters"] == 134_515_008
    assert found["stop_ids"][0] == 2


def test_template_json_has_the_keys_scripts_rely_on(sample: Path, tmp_path: Path) -> None:
    done = portside("template", sample, "--json", "-o", tmp_path / "out")
    assert done.returncode == 0
    dialects = json.loads(done.stdout)["dialects"]
    assert set(dialects) == {"jinja", "gguf", "ollama", "lmdeploy"}
    for dialect in dialects.values():
        assert dialect["classes"]["chat"].keys() >= {"status", "reason"}
        assert Path(dialect["file"]).is_file()
    assert (tmp_path / "out" / "proof.json").is_file()


def test_the_library_is_listed_without_a_model() -> None:
    done = portside("template", "--list", "--json")
    assert done.returncode == 0
    found = {family["name"]: family for family in json.loads(done.stdout)["families"]}
    assert found["smollm2"].keys() == {"name", "aliases", "description", "stop"}
    assert "smollm2" in portside("template", "--list").stdout
    without = portside("template")
    assert without.returncode == 2
    assert "MODEL" in without.stderr


def test_a_checkpoint_without_weights_is_proven_and_matched(sample: Path, tmp_path: Path) -> None:
    model = tmp_path / "tokenizer-only"
    model.mkdir()
    for path in sample.iterdir():
        if not path.name.startswith("model"):
            (model / path.name).write_bytes(path.read_bytes())
    proven = portside("template", model, "--json")
    assert proven.returncode == 0
    assert json.loads(proven.stdout)["dialects"]["ollama"]["ok"] is True
    matched = portside("template", model, "--match", "--json")
    assert matched.returncode == 0
    assert [match["name"] for match in json.loads(matched.stdout)["matches"]] == ["smollm2"]
    assert "family:smollm2" in portside("template", model, "--match").stdout


def test_the_proof_as_a_page(sample: Path, tmp_path: Path) -> None:
    done = portside("template", sample, "--html", tmp_path / "report.html", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["html"] == str(tmp_path / "report.html")
    assert "Which river runs through Vienna?" in (tmp_path / "report.html").read_text(encoding="utf-8")
    nowhere = portside("template", sample, "--html", tmp_path / "report.html" / "x.html")
    assert nowhere.returncode != 0
    assert "Traceback" not in nowhere.stderr


def test_a_dialect_that_was_asked_for_and_is_refused_is_exit_code_1(sample: Path) -> None:
    done = portside("template", sample, "--template", "family:chatml", "--to", "lmdeploy", "--json")
    assert done.returncode == 1
    chat = json.loads(done.stdout)["dialects"]["lmdeploy"]["classes"]["chat"]
    assert chat["status"] == "refused"
    assert "system" in chat["reason"]


def test_gguf_json_has_the_keys_scripts_rely_on(sample: Path, tmp_path: Path) -> None:
    done = portside("gguf", sample, "--type", "Q8", "--json", "-o", tmp_path)
    assert done.returncode == 0
    (file,) = json.loads(done.stdout)["files"]
    assert file.keys() >= {"path", "type", "bytes", "sha256"}
    assert file["type"] == "q8_0"
    assert Path(file["path"]).stat().st_size == file["bytes"]


def test_a_dry_run_writes_nothing(sample: Path, tmp_path: Path) -> None:
    done = portside("gguf", sample, "--type", "q4_k_m", "--type", "q8", "--dry-run", "--json", "-o", tmp_path)
    assert done.returncode == 0
    assert len(json.loads(done.stdout)["files"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_build_writes_a_bundle_whose_manifest_is_true(sample: Path, tmp_path: Path) -> None:
    import hashlib

    done = portside("build", sample, "-o", tmp_path / "bundle", "--json")
    assert done.returncode == 0
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    listed = {entry["name"]: entry for entry in manifest["files"]}
    found = {path.name for path in (tmp_path / "bundle").iterdir()}
    assert found == {*listed, "manifest.json"}
    assert {"proof.json", "Modelfile", "chat_template.jinja"} <= found
    for name, entry in listed.items():
        content = (tmp_path / "bundle" / name).read_bytes()
        assert entry["bytes"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
