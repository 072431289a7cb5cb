"""The rules of tmrl's competition as a command: driving, the table, and ``competition.json``."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.config.schema_commands import EvaluateConfig
from app.core.atomic_files import write_json
from app.core.console import print_line
from app.core.errors import UserError
from app.envs.env_factory import make_env
from app.evaluation.competition import (
    MAX_CRASHES,
    PENALTY_S,
    RUNS,
    CompetitionResult,
    Latency,
    TimedPolicy,
    drive_competition,
    latency,
)
from app.evaluation.episodes import Start, run_episodes
from app.evaluation.evaluator import policy_of
from app.reporting.number_format import lap_time, percent
from app.training.judged_policy import JudgedPolicy


def run_competition(cfg: EvaluateConfig, policy: JudgedPolicy, tracks: Sequence[int], console: Console) -> float:
    """Judge a policy by the rules of tmrl's competition, print a table, and write ``competition.json``.

    Args:
        cfg: Configuration of the command.
        policy: The policy.
        tracks: Seeds of the tracks, which take turns; empty for the game, which drives its loaded map.
        console: Console to print on.

    Returns:
        Mean return of the episodes.

    Raises:
        UserError: The task has no laps, or another number of episodes is asked for.
    """
    if policy.env.plain_vector:
        raise UserError(f"protocol = tmrl: env={policy.env.name} has no laps. Leave protocol out.")
    if cfg.episodes != RUNS or cfg.episodes_stochastic:
        raise UserError(
            f"protocol = tmrl: drives {RUNS} deterministic runs. Leave episodes and episodes_stochastic out."
        )
    starts = [Start(tracks[i % len(tracks)] if tracks else None, 0.0, cfg.seed + i) for i in range(RUNS + MAX_CRASHES)]
    env = make_env(policy.env, tracks, cfg.seed)
    act = TimedPolicy(policy_of(policy.actor, [True]))
    try:
        result = drive_competition(lambda i: run_episodes([env], [starts[i]], act)[0])
    finally:
        env.close()
    measured = latency(act.seconds, policy.env.step_s)
    _print_result(console, policy, result, measured)
    write_json(policy.folder.competition, _as_json(policy, tracks, result, measured))
    print_line(console, f"result  {policy.folder.competition}")
    return sum(attempt.episode.ret for attempt in result.attempts) / len(result.attempts)


def _print_result(console: Console, policy: JudgedPolicy, result: CompetitionResult, measured: Latency) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("episode", "track", "lap time", "penalty", "counts as"):
        table.add_column(name, justify="right")
    table.add_column("outcome")
    for number, attempt in enumerate(result.attempts, start=1):
        episode = attempt.episode
        outcome = Text(episode.outcome, style="green" if attempt.time is not None else "red")
        penalty = f"+{attempt.penalty:g} s" if attempt.penalty else "-"
        counted = "crash" if attempt.time is None else lap_time(attempt.time)
        table.add_row(str(number), str(episode.track), lap_time(episode.lap_time), penalty, counted, outcome)
    console.print(Text(f"{policy.name} by the rules of tmrl's competition", style="bold"))
    console.print(table)
    for line in _sentences(policy, result, measured):
        print_line(console, line)


def _sentences(policy: JudgedPolicy, result: CompetitionResult, measured: Latency) -> list[str]:
    times = {attempt.episode.lap_time for attempt in result.attempts}
    if result.score is None:
        lines = [f"eliminated after {result.crashes} crashes; each adds {PENALTY_S:g} s to the next run"]
    elif len(times) == 1 and not policy.env.real_time:
        same = "in every run, because the simulator is deterministic: tracks=[...] names several"
        lines = [f"mean {lap_time(result.score[0])}, the same {same}"]
    else:
        mean, std = result.score
        lines = [f"mean {lap_time(mean)} (std {std:.3f} s) over {RUNS} runs, {result.crashes} crashes"]
    step = 1000 * policy.env.step_s
    lines.append(
        f"act: mean {1000 * measured.mean:.1f} ms, 95th percentile {1000 * measured.p95:.1f} ms, 99th "
        f"{1000 * measured.p99:.1f} ms of the {step:g} ms of a step; {percent(measured.late)} took longer"
    )
    return lines


def _as_json(
    policy: JudgedPolicy, tracks: Sequence[int], result: CompetitionResult, measured: Latency
) -> dict[str, Any]:
    mean, std = result.score or (None, None)
    return {
        "run_name": policy.name,
        "best_epoch": policy.best_epoch,
        "tracks": tracks,
        "eliminated": result.is_eliminated,
        "crashes": result.crashes,
        "mean_time": mean,
        "std_time": std,
        "latency_s": asdict(measured),
        "step_s": policy.env.step_s,
        "attempts": [
            {"penalty": attempt.penalty, "time": attempt.time, **vars(attempt.episode)} for attempt in result.attempts
        ],
    }
