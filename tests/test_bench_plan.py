"""A matrix as it is written, the arms it has, and what a run of it would cost."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from test_cli import run

from redcloak.bench import plan as planning
from redcloak.bench.config import PROTOCOLS, MatrixConfig, load, names
from redcloak.bench.digests import Digests
from redcloak.bench.grid import Matrix
from redcloak.errors import UserError
from redcloak.images import save_images
from redcloak.needs import backbone_bytes, takes
from redcloak.parsing import validate
from redcloak.portraits import subject
from redcloak.runtime.plan import PRIORS
from redcloak.runtime.store import Store
from redcloak.suite import load as load_suite

SMALL = {"protections": ["aspl", "advdm"], "purifiers": ["none", "jpeg"], "seeds": [0]}


@pytest.fixture(scope="session")
def people(tmp_path_factory) -> list[str]:
    """Two folders of photos."""
    from redcloak.images import to_tensor

    root = tmp_path_factory.mktemp("people")
    for number, name in enumerate(("ann", "bob")):
        save_images(root / name, to_tensor(subject(number, shots=2)))
    return [str(root / "ann"), str(root / "bob")]


@pytest.fixture
def config(people):
    def make(**changes) -> MatrixConfig:
        made = validate(MatrixConfig, {"subjects": people} | SMALL | changes, "m.yaml")
        made.check("m.yaml")
        return made

    return make


def arms(config: MatrixConfig, subject: str) -> list[str]:
    return [arm.axes.arm for arm in Matrix.of(config).arms if arm.axes.subject == subject]


BASELINES = ["untuned", "clean", "random_noise@11", "aspl@11", "advdm@11"]


def test_every_combination_is_an_arm_and_baselines_are_always_there(config, people):
    treatments = ("", " cdl", " jpeg", " jpeg cdl")
    expected = ["untuned", *(name + how for name in BASELINES[1:] for how in treatments)]
    assert arms(config(), people[0]) == expected
    assert arms(config(purifiers=["jpeg"], decoupling=True), people[1]) == [
        "untuned", *(name + how for name in BASELINES[1:] for how in ("", " jpeg cdl"))
    ]  # fmt: skip
    plain = arms(config(baselines="plain"), people[0])
    assert sorted(set(expected) - set(plain)) == sorted(
        name + how for name in ("clean", "random_noise@11") for how in treatments[1:]
    )


def test_filters_name_labels_and_leave_the_baselines(config, people):
    only = arms(config(only=[{"protection": "as*", "decoupling": "plain"}]), people[0])
    assert only == ["untuned", *(n + how for n in ("clean", "random_noise@11", "aspl@11") for how in ("", " jpeg"))]
    excluded = arms(config(exclude=[{"purifier": ["jpeg"], "decoupling": "cdl"}, {"subject": people[1]}]), people[0])
    assert [arm for arm in excluded if "jpeg" in arm and "cdl" in arm] == []
    assert "aspl@11 jpeg" in excluded
    assert arms(config(exclude=[{"subject": people[1]}]), people[1]) == ["untuned", "clean", "random_noise@11"]


def test_a_filter_may_name_what_every_matrix_has(config, people):
    def cdl(**filters) -> list[str]:
        return arms(config(decoupling=True, **filters), people[0])

    nothing = ["untuned", "clean", "random_noise@11"]
    assert cdl(only=[{"protection": "aspl", "purifier": "none", "decoupling": "plain"}]) == [*nothing, "aspl@11"]
    assert cdl(only=[{"protection": "clean", "purifier": "jpeg"}]) == ["untuned", "clean", "clean jpeg cdl", nothing[2]]
    noise = cdl(only=[{"protection": "random_noise", "budget": 11}])
    assert noise == [*nothing, "random_noise@11 cdl", "random_noise@11 jpeg cdl"]
    assert cdl(exclude=[{"protection": "random_noise"}, {"protection": "a*"}]) == [
        "untuned", "clean", "clean cdl", "clean jpeg cdl", "random_noise@11"
    ]  # fmt: skip
    untreated = cdl(only=[{"protection": "aspl"}], exclude=[{"purifier": "none"}, {"decoupling": "plain"}])
    assert untreated == [
        *nothing[:2],
        "clean jpeg cdl",
        nothing[2],
        "random_noise@11 jpeg cdl",
        "aspl@11",
        "aspl@11 jpeg cdl",
    ]
    with pytest.raises(UserError, match="unknown protection in a filter 'cleen': did you mean 'clean'"):
        cdl(only=[{"protection": "cleen"}])


def test_the_same_photos_are_no_two_subjects(config, people):
    with pytest.raises(UserError, match=f"subjects: 'twin' has the same photos as '{people[0]}'; people count once"):
        Matrix.of(config(subjects=[*people, {"photos": people[0], "label": "twin"}]))


def test_stages_are_shared(config):
    matrix = Matrix.of(config(seeds=[0, 1], trainers=["dreambooth", {"name": "dreambooth", "lr": 1e-3}]))
    count = Counter(node.stage for node in matrix.graph.order())
    sources, treatments, people = 4, 4, 2
    assert count["class_images"] == 1
    assert count["purify"] == people * sources  # one for each source, whatever is trained on it
    assert count["personalize"] == people * sources * treatments * 2 * 2
    assert len(matrix.arms) == people + count["personalize"]
    assert len({arm.axes for arm in matrix.arms}) == len(matrix.arms)


def test_the_keys_are_those_of_an_audit(config, people):
    from redcloak.arms import Builder
    from redcloak.config import AuditConfig
    from redcloak.subjects import load_subject
    from redcloak.suite import load as load_suite

    audit = AuditConfig(photos=people[0], protection="aspl", purifiers=["jpeg"], red_team="jpeg", seeds=(0,))
    builder = Builder(audit, load_suite("tiny"), load_subject(people[0], 64))
    arms = {arm.summary.name: arm for arm in builder.arms()}
    ours = {arm.axes.arm: arm for arm in Matrix.of(config()).arms if arm.axes.subject == people[0]}
    for name, same in {"untuned": "untuned", "protected+jpeg": "aspl@11 jpeg", "red_team": "aspl@11 jpeg cdl"}.items():
        assert arms[name].scores[0][1].key == ours[same].scores.key
    assert arms["protected"].photo_scores.key == ours["aspl@11"].photo_scores.key


def test_the_resolved_matrix_reads_back_as_itself(config, tmp_path):
    more = config(
        protections=["aspl", {"name": "adaptive", "base": "aspl", "through": [["codesr"]], "label": "knows"}],
        purifiers=["none", "restore,upscale", {"label": "hard", "chain": [{"name": "jpeg", "quality": 10}, "median"]}],
        decoupling=[False, {"label": "paper", "variant": "paper"}],
        prompts={"plain": ["a photo of {subject}"], "moods": ["a smiling photo of {subject}"]},
        exclude=[{"budget": 11, "seed": 0, "prompts": "moods"}],
    )
    (tmp_path / "matrix.yaml").write_text(more.text())
    again = load(str(tmp_path / "matrix.yaml"))
    assert again == more
    assert more.labels("purifier") == ["none", "restore+upscale", "hard"]
    assert [node.key for node in Matrix.of(again).targets()] == [node.key for node in Matrix.of(more).targets()]


def test_a_method_with_settings_has_them_in_its_label(config):
    labels = config(purifiers=["none", {"name": "jpeg", "quality": 50}, "jpeg"]).labels("purifier")
    assert labels == ["none", "jpeg(quality=50)", "jpeg"]


def test_shipped_protocols_are_versioned_and_whole():
    assert {"quick", "tiny", "full", "adaptive", "paper", "causal"} <= set(names())
    for name in set(names()) - {"causal"}:
        config = load(name, subjects=["drawn:0"] if name == "paper" else None)
        assert (config.protocol, config.version >= 1, bool(config.title)) == (name, True, True)
        assert set(yaml.safe_load((PROTOCOLS / f"{name}.yaml").read_text())) <= {"extends", *MatrixConfig.model_fields}
    assert load("protocols/quick.yaml") == load("quick")


def test_a_protocol_may_be_extended(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: quick\nprotocol: mine\nseeds: [7]\n")
    (tmp_path / "more.yaml").write_text("extends: mine.yaml\nbudgets: 4\n")
    mine = load(str(tmp_path / "more.yaml"))
    assert (mine.protocol, mine.seeds, mine.budgets) == ("mine", (7,), (4.0,))
    assert mine.protections == load("quick").protections


BAD = {
    "subjects: []": "subjects = []: the axis has no values; give at least one.",
    "purifiers:": "purifiers = None: the axis has no values",
    "seeds: []": "seeds = []: the axis has no values",
    "prompts: []": "prompts = []: the axis has no values",
    "decoupling: []": "decoupling = []: the axis has no values",
    "protections: [asppl]": "unknown protection 'asppl': did you mean 'aspl'",
    "purifiers: ['jpeg,mediann']": "unknown purifier 'mediann': did you mean 'median'",
    "trainers: [dreambooths]": "unknown trainer 'dreambooths': did you mean 'dreambooth'",
    "suite: tine": "unknown suite 'tine': did you mean 'tiny'",
    "budget: 4": "unknown setting 'budget': did you mean 'budgets'",
    "protections: [{name: aspl, roundz: 3}]": "protection 'aspl': unknown setting 'roundz': did you mean 'rounds'",
    "budgets: [0.5]": "budgets.0 = 0.5: Input should be greater than or equal to 1",
    "budgets: [11, 100]": "budgets.1 = 100: Input should be less than or equal to 64",
    "protections: [{name: aspl, budget: 4}]": "protection aspl(budget=4): its budget is not a setting here",
    "protections: [aspl, aspl]": "protection 'aspl' stands twice",
    "protections: ['aspl,advdm']": "'aspl+advdm': a protection or a trainer is one method",
    "only: [{purifyer: jpeg}]": "unknown axis in a filter 'purifyer': did you mean 'purifier'",
    "only: [{purifier: jpg}]": "unknown purifier in a filter 'jpg': did you mean 'jpeg'",
    "prompts: ['a {thing}']": "'a {thing}' is no prompt",
    "prompts: ['a photo of somebody']": "does not name the subject; put {subject} in it",
    "extends: me.yaml": "extends goes round in a circle: me.yaml -> me.yaml",
    "extends: nothing": "unknown protocol 'nothing'",
    "purifiers: &a [*a]": "a value holds itself",
    "subjects: [no/such/folder]": "photo folder 'no/such/folder'",
    "metrics: [identety]": "unknown metric 'identety': did you mean 'identity'",
    "- a list": "a configuration is a mapping",
}


@pytest.mark.parametrize("line", BAD)
def test_mistakes_are_told_in_one_line(line, people, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = {"subjects": people} | SMALL
    name = line.partition(":")[0]
    text = yaml.safe_dump({key: value for key, value in whole.items() if key != name})
    Path("me.yaml").write_text(line if line.startswith("-") else f"{text}{line}\n")
    assert run("bench", "plan", "me.yaml") == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert BAD[line] in told
    assert os.listdir(tmp_path) == ["me.yaml"]


def test_every_verb_explains_itself_without_heavy_imports():
    verbs = ["plan", "run", "report", "why", "gc", "verify", "compare", "claim"]
    code = (
        f"import sys\nfrom redcloak.cli import main\nfor verb in {verbs}: assert main(['bench', verb, '--help']) == 0\n"
        "print(sorted({'torch', 'numpy', 'pyarrow', 'yaml', 'scipy'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.count("Example: redcloak bench ") == len(verbs)
    assert told.endswith("[]\n")


# --- what it costs ----------------------------------------------------------------------------------------------------


def publish(store, node, seconds=0.0):
    with store.publish(node.stage, node.version, node.config, node.input_keys) as draft:
        (draft.folder / "x").write_bytes(bytes(1000))
        draft.peak_memory_mb = 512.0


def test_a_plan_counts_what_is_there_and_measures_by_the_nearest_past(config, tmp_path):
    matrix, store = Matrix.of(config()), Store(tmp_path / "store")
    photos, protects = (
        [n for n in matrix.graph.order() if n.stage == stage and not n.label.startswith("protect: none")]
        for stage in ("photos", "protect")
    )
    for node in (*photos, protects[0], next(n for n in protects if n.config["method"]["name"] == "aspl")):
        publish(store, node)
    store.failures.record(protects[-1].key, "protect", "", "no reason", "")
    found = planning.plan(matrix, store, 2, tmp_path)
    rows = {row.stage: row for row in found.rows}
    assert (rows["photos"].total, rows["photos"].cached, rows["photos"].missing) == (4, 4, 0)
    assert (rows["protect"].total, rows["protect"].missing, rows["protect"].failed) == (6, 4, 1)
    assert rows["protect"].source == "prior"  # of advdm nothing is known but what other protections took
    assert rows["protect"].bytes > 4000
    known = planning.plan(matrix, store, 2, tmp_path, [n for n in protects if n.config["method"]["name"] == "aspl"])
    assert [(r.source, r.memory_mb) for r in known.rows if r.stage == "protect"] == [("measured", 512.0)]
    assert (rows["personalize"].source, rows["personalize"].seconds_each) == ("prior", PRIORS["personalize"])
    stated = max(node.needs.memory_mb for node in matrix.graph.order())
    assert found.memory_mb == 2 * stated > 2 * 512.0  # of two workers; what was not measured counts as stated
    assert found.seconds == pytest.approx(sum(row.seconds for row in found.rows))
    assert found.elapsed == pytest.approx(found.seconds / 2)
    assert json.loads(json.dumps(found.to_json()))["hours"] == found.seconds / 3600


def test_a_plan_of_everything_anew_and_of_some_targets(config, tmp_path):
    matrix, store = Matrix.of(config()), Store(tmp_path / "store")
    for node in matrix.graph.order():
        publish(store, node)
    assert planning.plan(matrix, store, 2, tmp_path).missing == 0
    anew = planning.plan(matrix, store, 2, tmp_path, anew=True)
    assert anew.missing == planning.plan(matrix, None, 2, tmp_path).missing > 100
    assert {row.source for row in anew.rows} == {"measured"}  # what is there tells the time
    one = next(node for node in matrix.graph.order() if node.stage == "protect")
    assert [(row.stage, row.missing) for row in planning.plan(matrix, None, 2, tmp_path, [one]).rows][:2] == [
        ("photos", 1), ("protect", 1)
    ]  # fmt: skip


def test_memory_is_stated_before_it_is_measured(config):
    matrix = Matrix.of(config())
    needs = {node.stage: node.needs.memory_mb for node in matrix.graph.order()}
    weights = backbone_bytes(load_suite("tiny")) / 2**20
    assert weights > 5
    assert needs["photos"] == 0
    assert needs["personalize"] == pytest.approx(600 + 4 * weights)
    assert needs["generate"] == pytest.approx(600 + weights)
    assert takes("cuda", 2**30, "personalize", ("dreambooth",)).memory_mb == 600 + 1024  # the rest is the GPU's
    assert takes("cpu", 2**30, "purify", ("jpeg",)).memory_mb == 0


def test_planning_makes_nothing_and_tells_all(people, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("m.yaml").write_text(yaml.safe_dump({"subjects": people} | SMALL))
    assert run("bench", "plan", "m.yaml", "--only", "protection=aspl,decoupling=plain") == 0
    told = capsys.readouterr().out
    assert told.startswith("own v1: 14 arms")
    for word in ("missing", "failed", "a guess", "with 2 workers", "Memory: ", "Disk: about"):
        assert word in told
    assert run("bench", "plan", "m.yaml", "--json", "--workers", "3") == 0
    assert json.loads(capsys.readouterr().out)["workers"] == 3
    assert os.listdir(tmp_path) == ["m.yaml"]
    assert run("bench", "plan", "m.yaml", "--subject", people[0], "--only", "decoupling=plain") == 0
    assert capsys.readouterr().out.startswith("own v1: 9 arms")
    assert run("bench", "plan", "causal", "--subject", people[0]) == 2
    assert "--subject: a study has no axes" in capsys.readouterr().err
    assert run("bench", "run", "m.yaml", "--device", "cuda:7") == 2
    assert "device = 'cuda:7': not on this machine" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["m.yaml"]
    assert run("bench", "plan", "m.yaml", "--only", "aspl") == 2
    assert "write it as AXIS=LABEL" in capsys.readouterr().err


def test_more_than_the_machine_has_is_said(config, tmp_path):
    from dataclasses import replace

    from redcloak.cli.plan_words import told

    found = planning.plan(Matrix.of(config()), None, 2, tmp_path / "not" / "there")
    poor = replace(found, memory_mb=9e9, disk=found.disk_free + 1)
    assert "MORE THAN THERE IS" in told(poor)
    assert "MORE THAN IS FREE" in told(poor)
    assert told(replace(found, rows=())).endswith("Nothing is left to run.")


def test_digests_are_kept_and_believed_only_while_nothing_changes(people, tmp_path):
    path, folder = tmp_path / "photos.json", Path(people[0])
    first = Digests(path).photos(people[0], 64)
    assert first.train  # read
    known = Digests(path)
    known.photos(people[0], 64)
    known.keep()
    again = Digests(path).photos(people[0], 64)
    assert (again, again.train) == (first, ())
    assert Digests(path).photos(people[0], 32).digest != first.digest
    os.utime(next(folder.glob("*.png")))
    assert Digests(path).photos(people[0], 64).train


LARGE = r"""
import json, re, sys
from redcloak.bench.config import MatrixConfig
from redcloak.parsing import validate
from redcloak.bench.grid import Matrix
from redcloak.bench.plan import plan
from pathlib import Path
names = json.loads(sys.argv[1])
config = validate(MatrixConfig, {**names, "budgets": [2, 4, 8, 11], "seeds": list(range(5))}, "large")
found = plan(Matrix.of(config), None, 8, Path())
heavy = sorted({"torch", "diffusers", "transformers", "cv2"} & set(sys.modules))
status = Path("/proc/self/status")
peak = int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]) / 1024 if status.exists() else 0
print(json.dumps([found.arms, found.missing, peak, heavy]))
"""


def test_a_large_matrix_is_planned_without_torch_and_in_little_memory(people):
    protections = ["ace", "advdm", "aspl", "caat", "disdiff", "easpl", "glaze", "mist", "photoguard", "pid", "simac"]
    purifiers = ["bilateral", "codesr", "diffpure", "gaussian", "gridpure", "jpeg", "median", "restore", "tvm", "webp"]
    given = {"subjects": people, "protections": protections, "purifiers": ["none", *purifiers]}
    done = subprocess.run([sys.executable, "-c", LARGE, json.dumps(given)], capture_output=True, text=True, check=True)
    arms, missing, peak, heavy = json.loads(done.stdout)
    treatments = 11 * 2 * 5
    assert arms == 2 * (1 + treatments * (1 + 4 * 12))
    assert missing > 2 * arms
    assert heavy == []
    assert peak < 300  # MiB, of which two thirds are the libraries
