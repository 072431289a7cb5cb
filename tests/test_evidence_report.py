"""Report of a lab: its numbers are those of the table, its claims those of the intervals, and it needs no network."""

import json
import re
import statistics
from html.parser import HTMLParser

import pytest
from matplotlib.axes import Axes

from app.ablation import report
from app.ablation.evidence_figures import forest_figure
from app.ablation.evidence_pictures import draw_effects
from app.ablation.evidence_runs import read_evidence
from app.ablation.evidence_summary import summarize
from app.ablation.evidence_text import headline, method
from app.ablation.report import write_report
from app.ablation.report_tables import verdict_table
from app.ablation.run_scores import PRIMARY
from app.core.errors import UserError
from tests.helpers.browser import CHROMIUM, open_page
from tests.helpers.evidence import REFERENCES, lab_arms, lap_rows, make_arm, write_rows

ARMS = (*REFERENCES, make_arm("fault_1", label="fault 1: floor"), make_arm("fix_1", "fix"))
SHARES = {  # arm: lap shares by seed
    "fixed": [[0.5, 1.0, 1.0], [0.6, 1.0, 1.0], [0.7, 1.0, 1.0]],
    "collapse": [[0.1, 0.2, 0.1], [0.1, 0.1, 0.2], [0.2, 0.1, 0.1]],
    "fault_1": [[0.4, 0.5, 0.6], [0.5, 0.5, 0.5], [0.3, 0.5, 0.4]],
    "fix_1": [[0.1, 0.2, 0.1], [0.2, 0.1, 0.2], [0.1, 0.1, 0.1]],
}


def rows(**columns):
    measures = {"steering_noise": [0.2, 0.1, 0.05], "q_predicted": 20.0, "q_earned": 15.0, **columns}
    return [
        row
        for arm, runs in SHARES.items()
        for seed, shares in enumerate(runs)
        for row in lap_rows(arm, seed, shares, **measures)
    ]


class Cells(HTMLParser):
    """The text of every table row and of the whole page, and its tags."""

    def __init__(self, text: str):
        super().__init__()
        self.rows, self.text, self.tags, self._inside = [], "", [], ""
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside in ("script", "style"):
            return
        self.text += f" {data}"
        if self._inside in ("td", "th", "code") and self.rows:
            self.rows[-1][-1] += data


@pytest.fixture
def write(tmp_path):
    def write(found, arms=ARMS, **shown):
        return write_report(write_rows(tmp_path / "lab" / "evidence.csv", found), arms, tmp_path / "lab", **shown)

    return write


@pytest.fixture
def write_text(write, monkeypatch):
    """As ``write``, without the two pictures, which take most of its time."""
    for name in ("draw_learning_curves", "draw_effects"):
        monkeypatch.setattr(report, name, lambda *_: None)
    return write


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Page and Markdown of the rows; tests only read them."""
    folder = tmp_path_factory.mktemp("written") / "lab"
    return write_report(write_rows(folder / "evidence.csv", rows()), ARMS, folder)


@pytest.fixture
def read(tmp_path):
    """Summarizes rows without writing a report."""

    def read(found, arms=ARMS, peers=()):
        runs = read_evidence(write_rows(tmp_path / "evidence.csv", found))
        others = read_evidence(write_rows(tmp_path / "peers.csv", peers), are_peers=True)
        return summarize(runs, arms, others)

    return read


def drawn(page) -> dict:
    (line,) = re.findall(r"^const drawn = (.*);$", page.read_text(), re.MULTILINE)
    return json.loads(line)


def test_numbers_on_the_page_are_those_of_the_table(written):
    page, _ = written
    cells = Cells(page.read_text())
    means = {arm: statistics.fmean(statistics.fmean(run) for run in runs) for arm, runs in SHARES.items()}
    found = {row[0]: row for row in cells.rows if len(row) == 11 and row[1] == "3"}
    for arm in ARMS:
        assert found[arm.label][4].startswith(f"{means[arm.name]:.2f} [")  # of three runs, the plain mean
        assert found[arm.label][2:4] == ["3", "4,000"]
    verdicts = {row[0]: row for row in cells.rows if len(row) == 6}
    difference = f"−{means['fixed'] - means['fault_1']:.2f} ["
    assert verdicts["fault 1: floor"][2].startswith(difference) and verdicts["fault 1: floor"][3].startswith("0.00 [")


def test_curves_are_drawn_from_the_table(written):
    page, _ = written
    lines = [trace for figure in drawn(page).values() for trace in figure["data"] if trace.get("name") == "fault_1"]
    centre = [statistics.fmean(run[epoch] for run in SHARES["fault_1"]) for epoch in range(3)]
    assert any(line["x"] == [1, 2, 3] and line["y"] == pytest.approx(centre) for line in lines)
    assert any(line["y"] == pytest.approx([5.0, 5.0, 5.0]) for line in lines)  # Q minus the return earned


def test_claims_are_those_of_the_intervals(written):
    page, markdown = written
    verdicts = {row[0]: row[1] for row in Cells(page.read_text()).rows if len(row) == 6}
    assert verdicts["fault 1: floor"].startswith("Worse than fixed (weak: 3 seeds)")
    assert "Shows nothing here against collapse with 3 seeds" in verdicts["fix_1"]
    assert "One fault alone makes the fixed agent worse: fault 1: floor" in markdown.read_text()
    assert "One fix alone in the broken agent shows nothing here: fix\\_1" in markdown.read_text()


def test_two_seeds_carry_no_claim(write_text):
    page, _ = write_text([row for row in rows() if row["seed"] < 2])
    text = Cells(page.read_text()).text
    assert "Too few seeds for any claim so far: fault 1: floor; fix_1." in text
    assert "Worse than" not in text


def test_arms_are_compared_over_the_epochs_that_both_have(write_text):
    longer = [lap_rows("fixed", seed, [*run, 0.0, 0.0, 0.0]) for seed, run in enumerate(SHARES["fixed"])]
    arms = (make_arm("fixed", "reference", (), epochs=6), *ARMS[1:])
    page, _ = write_text(
        [row for row in rows() if row["arm"] != "fixed"] + [row for run in longer for row in run], arms
    )
    found = [row for row in Cells(page.read_text()).rows if row[0] == "fixed" and len(row) == 11]
    assert [(row[1], row[4][:4]) for row in found] == [("6", "0.43"), ("3", "0.87")]
    difference = next(row[2] for row in Cells(page.read_text()).rows if row[0] == "fault 1: floor" and len(row) == 6)
    assert difference.startswith("−0.40 [")  # 0.47 against 0.87 over 3 epochs, not against 0.43


def test_tasks_are_kept_apart(write):
    other = [row | {"task": "car_racing"} for row in rows()[:9]]
    page, _ = write(rows() + other)
    text = Cells(page.read_text()).text
    assert "Task sim_lidar" in text and "Task car_racing" in text


def test_batch_norm_that_does_no_harm_is_said_to_be_no_surprise(write_text):
    arms = (*REFERENCES, make_arm("fault_2_norm", faults=(2,)))
    norm = [row | {"arm": "fault_2_norm"} for row in rows() if row["arm"] == "fixed"]
    page, _ = write_text([row for row in rows() if row["arm"] in ("fixed", "collapse")] + norm, arms)
    assert "Batch norm is not always bad: CrossQ" in Cells(page.read_text()).text


def test_runs_that_did_not_finish_are_listed_and_do_not_count(write_text):
    failed = lap_rows("fault_1", 3, [1.0], end="failed: the disk is full")
    pending = lap_rows("fix_1", 3, [0.5])[0] | {"end": "to be done", "epoch": "", "lap_share_det": "", "env_steps": ""}
    page, markdown = write_text([*rows(), *failed, pending])
    sentences = (
        "fault_1, seed 3, sim_lidar: failed: the disk is full, after 1 epochs.",
        "fix_1, seed 3, sim_lidar: to be done.",
    )
    assert all(sentence in Cells(page.read_text()).text for sentence in sentences)
    assert "the disk is full" in markdown.read_text()
    assert any(row[:3] == ["fault 1: floor", "3", "3"] for row in Cells(page.read_text()).rows)


NAN = "not finite: loss_critic"


def without_epoch(arm, seed, end):
    return lap_rows(arm, seed, [0.5])[0] | {"end": end, "epoch": "", "lap_share_det": "", "env_steps": ""}


def test_arm_whose_runs_all_became_nan_is_judged_over_its_planned_epochs(read):
    arms = tuple(make_arm(arm.name, arm.group, arm.faults, epochs=10) for arm in ARMS)
    good = [row for seed in range(5) for row in lap_rows("fixed", seed, [1.0] * 10)]
    lost = [row for seed in range(5) for row in lap_rows("fault_1", seed, [1.0, 1.0], end=NAN)]
    (task,) = read([*good, *lost], arms).tasks
    fault = task.find("fault_1")
    assert fault.scores[0].epochs == 10 and fault.scores[0].estimates["mean"].centre == pytest.approx(0.2)
    assert "One fault alone makes the fixed agent worse: fault_1 (−0.80" in " ".join(headline(task))


def test_curve_of_an_arm_that_became_nan_goes_on_at_0(write_text):
    arms = tuple(make_arm(arm.name, arm.group, arm.faults, epochs=5) for arm in ARMS)
    page, _ = write_text(lap_rows("fixed", 0, [1.0] * 5) + lap_rows("fault_1", 0, [1.0, 1.0], end=NAN), arms)
    lines = [trace for figure in drawn(page).values() for trace in figure["data"] if trace.get("name") == "fault_1"]
    assert lines[0]["y"] == [1.0, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("arm", ["fixed", "SB3 SAC"])
def test_longer_sibling_does_not_throw_the_others_away(read, arm):
    arms = (make_arm("fixed", "reference", (), epochs=9),)
    found = [row for seed, length in enumerate([3, 3, 6]) for row in lap_rows(arm, seed, [0.5] * length)]
    (task,) = read(found, arms).tasks
    scores = task.find(arm).scores[0]
    assert (scores.epochs, scores.seeds) == (3, (0, 1, 2))


def test_runs_in_progress_are_judged_over_the_epochs_that_they_have(read):
    arms = (make_arm("fixed", "reference", (), epochs=50),)
    stopped = lap_rows("fixed", 1, [0.5] * 9, end="collapsed: stuck")
    (task,) = read([*lap_rows("fixed", 0, [0.5] * 4, end="running/stopped"), *stopped], arms).tasks
    assert (task.find("fixed").scores[0].epochs, task.find("fixed").scores[0].seeds) == (4, (0,))


def test_run_that_became_nan_before_its_first_evaluation_counts_with_lap_share_0(read):
    found = [*rows(), without_epoch("fault_1", 3, NAN)]
    summary = read(found)
    scores = summary.tasks[0].find("fault_1").scores[0]
    assert scores.estimates["mean"].values[3] == 0.0 and scores.estimates["collapsed"].values[3] == 1.0
    assert "fault_1, seed 3, sim_lidar: not finite: loss_critic, after 0 epochs." in summary.problems


def test_runs_of_an_arm_that_have_not_begun_are_named_together(read):
    waiting = [without_epoch("fault_1", seed, "to be done") for seed in (3, 4)]
    problems = read([*rows(), *waiting, *lap_rows("fixed", 3, [0.5] * 4, end="running/stopped")]).problems
    assert "fault_1, seeds 3, 4, sim_lidar: to be done." in problems
    assert "fixed, seed 3, sim_lidar: running/stopped, after 4 epochs." in problems


def test_lab_whose_runs_all_became_nan_at_once_has_a_report(write):
    found = [without_epoch(arm, seed, NAN) for arm in ("fixed", "someone") for seed in range(3)]
    page, markdown = write(found)
    assert any(row[:3] == ["fixed", "3", "3"] for row in Cells(page.read_text()).rows)
    assert "someone" in markdown.read_text()


@pytest.mark.parametrize(("end", "collapsed"), [("collapsed: Q is impossible", 1.0), ("pruned", None)])
def test_run_that_was_stopped_early_is_not_judged_and_named_beside_the_claim(read, end, collapsed):
    stopped = [row for arm in ("fault_1", "fixed") for row in lap_rows(arm, 3, [0.0, 0.0], end=end)]
    summary = read([*rows(), *stopped])
    (task,) = summary.tasks
    scores = task.find("fault_1").scores[0]
    assert scores.seeds == (0, 1, 2) and scores.estimates["mean"].values.keys() == {0, 1, 2}
    assert scores.estimates["collapsed"].values.get(3) == collapsed
    said = "topped early, not judged: 1 of fault 1: floor, 1 of fixed"
    verdicts = {row[0]: row[1] for row in verdict_table(task).rows}
    assert said in verdicts["fault 1: floor"] and "not judged: 1 of fixed" in verdicts["collapse"]
    sentences = headline(task)
    assert any(said in line for line in sentences if line.startswith("One fault alone"))
    assert any("not judged: 1 of fixed" in line for line in sentences if line.startswith("The faults together"))
    assert f"fault_1, seed 3, sim_lidar: {end}, after 2 epochs; stopped early, not judged." in summary.problems


def more_seeds(found):
    """The same rows, and again as seeds 3 to 5."""
    return [*found, *(row | {"seed": row["seed"] + 3} for row in found)]


def test_headline_marks_a_weak_claim_as_the_table_does(read):
    def line(found):
        (task,) = read(found).tasks
        return next(line for line in headline(task) if line.startswith("The faults together make the agent worse"))

    assert line(rows()).endswith(", 3 seeds, weak.") and line(more_seeds(rows())).endswith(", 6 seeds.")


def test_claims_of_other_scores_are_marked_weak(read):
    shares = {"fixed": [0.2, 1.0, 0.6], "fault_1": [0.8, 0.5, 0.5]}
    found = [row for arm, some in shares.items() for seed in range(3) for row in lap_rows(arm, seed, some)]

    def verdict(found):
        return {row[0]: row[1] for row in verdict_table(read(found).tasks[0]).rows}["fault 1: floor"]

    assert "but worse in lap held (weak), worst since the first full lap (weak)" in verdict(found)
    assert "Shows nothing" in verdict(found)
    assert "but worse in lap held, worst since" in verdict(more_seeds(found))


def test_weak_claims_are_drawn_hollow(read, tmp_path, monkeypatch):
    def marks(found):
        summary = read(found)
        effects = summary.tasks[0].effects("fixed", PRIMARY)
        faces = []
        original = Axes.plot

        def plot(axis, *values, **style):
            faces.append(style.get("markerfacecolor"))
            return original(axis, *values, **style)

        with monkeypatch.context() as patch:
            patch.setattr(Axes, "plot", plot)
            draw_effects(summary, tmp_path / "effects.svg")
        symbols = {trace["marker"]["symbol"] for trace in forest_figure(effects, PRIMARY)["data"]}
        return symbols, {face for face in faces if face is not None}

    found = [row for row in rows() if row["arm"] in ("fixed", "fault_1")]
    assert marks(found) == ({"triangle-down-open"}, {"white"})
    assert marks(more_seeds(found)) == ({"triangle-down"}, {"#D55E00"})


def test_legend_of_the_forest_plots_has_the_weak_claims(written):
    page, _ = written
    assert "▽ worse, weak" in Cells(page.read_text()).text.replace("\xa0", " ").replace("  ", " ")


def test_number_of_comparisons_counts_every_score(read):
    summary = read(rows())
    shown = [effects for arm in summary.tasks[0].arms for effects in arm.effects.values()]
    assert summary.comparisons == sum(map(len, shown)) == 5 * 6  # without lap times; collapse against fixed only
    assert any("makes 30 comparisons, by all scores together" in line for line in method(summary))


def test_reference_that_never_lapped_is_said_to_have_driven_no_full_lap(read):
    lines = headline(read(rows()).tasks[0])
    assert "over 3 epochs, never drove a full lap, 0 of 3 runs collapsed." in lines[1]
    assert "lap held in 1.00 [1.00, 1.00] of the epochs since the first full lap" in lines[0]


def test_label_of_the_broken_arm_of_the_smoke_lab_names_its_faults():
    (collapse,) = (arm for arm in lab_arms("smoke") if arm.name == "collapse")
    assert tuple(map(int, re.findall(r"\d", collapse.label))) == collapse.faults


def test_lab_without_any_epoch_has_a_report(write):
    page, markdown = write([lap_rows("fixed", 0, [0.5])[0] | {"end": "to be done", "epoch": "", "lap_share_det": ""}])
    assert "No run has finished an epoch yet." in Cells(page.read_text()).text
    assert "evidence_curves.svg" not in markdown.read_text()


def test_peers_are_further_rows(write, tmp_path):
    write_rows(tmp_path / "lab" / "peers.csv", [row | {"arm": "SB3 SAC"} for row in rows() if row["arm"] == "collapse"])
    page, _ = write(rows())
    text = Cells(page.read_text()).text
    assert "Other libraries, worse than the fixed agent: SB3 SAC" in text


def test_collapses_of_peers_are_not_known(read):
    peers = [row | {"arm": "SB3 SAC"} for row in rows() if row["arm"] == "collapse"]
    (task,) = read(rows(), peers=peers).tasks
    found = task.find("SB3 SAC")
    assert "mean" in found.scores[0].estimates and "collapsed" not in found.scores[0].estimates
    assert "collapsed" not in found.effects["fixed"]


@pytest.mark.parametrize("arm", ["fixed", "fault_1"])
def test_peer_with_the_name_of_an_arm_is_refused_in_one_sentence(write, tmp_path, arm):
    path = write_rows(tmp_path / "lab" / "peers.csv", lap_rows(arm, 0, [0.5, 0.5, 0.5]))
    with pytest.raises(UserError) as error:
        write([row for row in rows() if row["arm"] != "fault_1"])
    assert str(error.value).startswith(f"{path}: arm = {arm!r}, task = 'sim_lidar', seed = 0: must not be the name")
    assert "\n" not in str(error.value)


def test_commands_are_those_that_the_lab_gives(write_text):
    command = "python app/lab.py lab=full lab.name=other"
    shown = {"fault_1": ("a.b=1", "training.epochs=2", "seed=3")}
    page, markdown = write_text(rows(), command=command, run_overrides=shown)
    text = Cells(page.read_text()).text
    for found in (text, markdown.read_text().replace("\\_", "_")):
        assert command in found
        assert "python app/train.py a.b=1 training.epochs=2 seed=3" in found
        assert "python app/train.py some.key=fix_1 training.epochs=3 seed=0" in found


def test_no_command_is_shown_unless_it_is_given(written):
    page, markdown = written
    assert "app/lab.py" not in Cells(page.read_text()).text + markdown.read_text()
    assert "## Commands" not in markdown.read_text()


def test_markdown_names_pictures_that_exist(written):
    _, markdown = written
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", markdown.read_text())
    assert pictures == ["evidence_effects.svg", "evidence_curves.svg"]
    assert all("<svg" in (markdown.parent / name).read_text() for name in pictures)


def test_same_table_gives_the_same_pictures_and_markdown(written, write):
    first, again = (
        {path.name: path.read_bytes() for path in markdown.parent.glob("evidence*.[ms]*")}
        for _, markdown in (written, write(rows()))
    )
    assert len(first) == 3 and first == again


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)> | [a](http://b) $x$ {{7*7}}"


def test_hostile_text_from_the_table_is_harmless(write):
    arms = (*ARMS, make_arm("hostile", label=HOSTILE))
    strange = [row | {"arm": name} for row in rows() for name in ("hostile", HOSTILE) if row["arm"] == "fault_1"]
    page, markdown = write(
        [*rows(), *strange, *lap_rows("fixed", 7, [0.1], end=f"failed: {HOSTILE}", task=HOSTILE)], arms
    )
    cells = Cells(page.read_text())
    assert [tag for tag, _ in cells.tags].count("script") == 2
    assert not any(tag == "img" for tag, _ in cells.tags)
    assert not any(name.startswith("on") for _, attrs in cells.tags for name in attrs)
    assert "<script" not in markdown.read_text() and not re.search(r"[^\\]\]\(http", markdown.read_text())


HEADER = "arm,seed,task,end,collapsed_at,epoch,lap_share_det\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no column arm, seed"),
        ("arm,seed\n", "has no column task, end"),
        (HEADER.replace("epoch,", "epoch,epoch,"), "names a column twice"),
        (f"{HEADER}fixed,0,sim,finished,,1\n", "line 2 has 6 cells, and the header 7"),
        (f"{HEADER}fixed,zero,sim,finished,,1,0.5\n", "line 2: seed = 'zero': must be a whole number"),
        (f"{HEADER}fixed,0,sim,finished,,1,half\n", "line 2: lap_share_det = 'half': must be a number"),
        (f"{HEADER}fixed,0,sim,finished,,1,0.5\nfixed,0,sim,finished,,1,0.5\n", "epoch = 1: must be above 1"),
        (f'{HEADER}fixed,0,sim,"fini', "is no CSV"),
        (b"\xff\xfe", "it is not UTF-8"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_damaged_table_is_refused_in_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "evidence.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        read_evidence(path)
    assert sentence in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value) and "python app/lab.py" in str(error.value)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium in PATH")
@pytest.mark.parametrize("width", [390, 1280])
def test_page_draws_every_figure_in_a_browser_and_asks_for_nothing(written, tmp_path, width):
    page, _ = written
    seen = open_page(page, tmp_path, width)
    assert seen["problems"] == [] and seen["requests"] == []
    assert seen["drawn"] == seen["plots"] == len(drawn(page)) > 10
    assert seen["too_wide"] == 0
    shown, needed = seen["width"]
    assert needed <= shown == width
