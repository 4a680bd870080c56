"""Compare methods over several seeds, at equal steps and in equal time; write tables and draw figures.

Every finished run goes into one file of results, so that the same command, run again, goes on where it was stopped, and
after a change repeats only the runs that it concerns. Several processes may work on the same results at once.

Example:
    python scripts/compare.py --methods uniform last-loss:0.5 lstm:1:upper-bound --seeds 3 --out runs/shuttle
    python scripts/compare.py --preset results --only shuttle --out runs/results
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from comparisons import DEMO, EVIDENCE, Comparison
from configuration import Config
from equal_time import read_step_times
from jobs import check, plan, run_unfinished
from methods import FORM
from options import add_batch_options, add_training_options, options_of_predictors, training_options
from reports import Report, write_documents
from results_file import ResultsFile

PRESETS: dict[str, tuple[Comparison, ...]] = {"demo": (DEMO,), "results": EVIDENCE}
RESULTS_FILE = "results.jsonl"


def main() -> None:
    """Run the script."""
    arguments = parse_arguments()
    results = ResultsFile(arguments.out / RESULTS_FILE, arguments.known)
    try:
        step_times = read_step_times() if arguments.preset == "results" else {}
        planned = {}
        for each in chosen(arguments):
            times = step_times.get(each.like or each.name)
            costs = times.costs if times else {}
            if each.like is not None and (untimed := [text for text in each.parsed if text not in costs]):
                names = ", ".join(untimed)
                print(
                    f"{each.name}: not timed, so left out: {names}; run step_times.py --only {each.like}",
                    file=sys.stderr,
                )
            if jobs := plan(each, results, arguments.data_dir, costs):
                planned[each] = jobs, times
        every_job = [job for jobs, _ in planned.values() for job in jobs]
        arguments.out.mkdir(parents=True, exist_ok=True)
        if not arguments.report_only:
            check(every_job, results)
            run_unfinished(every_job, results, arguments.jobs)
        reports = [Report(each, jobs, results, times) for each, (jobs, times) in planned.items()]
        reports = [report for report in reports if report.runs]
        for report in reports:
            print(report)
            report.write(arguments.out)
        if arguments.document is not None:
            write_documents(arguments.document, reports)
        if arguments.publish is not None:
            num_dropped = results.publish((job.key for job in every_job), arguments.publish)
            if num_dropped:
                print(f"{num_dropped} finished runs are not planned, and not published", file=sys.stderr)
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f"compare.py: error: {error}")
    except (KeyboardInterrupt, BrokenProcessPool) as error:
        why = "stopped" if isinstance(error, KeyboardInterrupt) else "a run was killed, for lack of memory perhaps"
        sys.exit(f"compare.py: {why}; the same command goes on with what is not finished")


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    option = parser.add_argument
    option("--preset", choices=PRESETS, help="comparisons to run, in place of the options up to --eval-every")
    option("--only", nargs="+", metavar="NAME", help="of the preset's comparisons these")
    add_training_options(parser)
    add_batch_options(parser)
    option("--methods", nargs="+", metavar="METHOD", help=f"{FORM}, or uniform")
    option("--eval-every", type=int, default=Config.eval_every, metavar="N", help="steps between evaluations")
    option("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    option("--known", type=Path, metavar="FILE", help="results of before, whose runs are not repeated")
    option("--publish", type=Path, metavar="FILE", help="write the results that were asked for into this file too")
    option("--document", nargs="+", type=Path, metavar="FILE", help="put the tables and figures into these too")
    option("--report-only", action="store_true", help="of what is finished, without training")
    arguments = parser.parse_args()
    if not arguments.methods and arguments.preset is None:
        parser.error("--methods is required without a --preset")
    if arguments.methods and arguments.preset is not None:
        parser.error("--methods is not for a --preset, which has its own")
    if arguments.only and arguments.preset is None:
        parser.error("--only names comparisons of a --preset")
    if (arguments.publish or arguments.document) and (arguments.only or arguments.preset is None):
        parser.error(
            "--publish and --document write all of a --preset and nothing else: give one, and leave --only out"
        )
    return arguments


def chosen(arguments: argparse.Namespace) -> Sequence[Comparison]:
    """Return the comparisons that the command asks for.

    Raises:
        ValueError: there is no such comparison, or an option is out of bounds.
    """
    if arguments.preset is not None:
        known = {comparison.name: comparison for comparison in PRESETS[arguments.preset]}
        names = arguments.only or known
        if unknown := set(names) - set(known):
            raise ValueError(f"`--only` must name some of {', '.join(known)}; got {', '.join(sorted(unknown))}.")
        return [known[name] for name in names]
    settings = {**training_options(arguments), "eval_every": arguments.eval_every}
    name, methods = "comparison", tuple(arguments.methods)
    comparison = Comparison(name, methods, settings, arguments.seeds, drawn=())
    predictors = [method.predictor for method in comparison.parsed.values()]
    options = options_of_predictors(arguments.predictor_options, predictors)
    return [Comparison(name, methods, settings, arguments.seeds, drawn=(), options=options)]


if __name__ == "__main__":
    main()
