"""What the report says, in which order: the answer, a section for each question, and the rest folded."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from lit_mnist.record.result import FAILED_OUTCOMES
from lit_mnist.report.drawing import Palette
from lit_mnist.report.experiments import AXES, Axis, Configuration, Sweep, find_sweeps
from lit_mnist.report.figures import draw_accuracies, draw_curves, draw_survival, draw_sweep
from lit_mnist.report.findings import best_of_other_sweeps, lead_sentences, overview, section_sentences
from lit_mnist.report.load import Problem
from lit_mnist.report.published import published_rows
from lit_mnist.report.quantities import TEST_ACCURACY
from lit_mnist.report.render import Block, Bullets, Columns, Figures, Lines, Page, Section, Table, Text
from lit_mnist.report.tables import all_runs, count_of, failed_runs, levels, provenance, results

Sweeps = dict[Axis, list[Sweep]]
MOST_NAMED = 12  # configurations in the table of the first screen
METHODS = (
    "Runs that differ only in the seed form a configuration; configurations that differ only in the learning rate, or "
    "only in the batch size, form a sweep.",
    "Four quantities were chosen beforehand: share of failed runs, training loss of epoch 1, final training loss, final "
    "test accuracy.",
    "The training loss of an epoch is the mean of its batch losses, in nats, taken while the weights move; accuracies "
    "count every image once, after training.",
    "A run failed if its loss stopped being finite (diverged), or rose far above its best epoch or stayed at guessing "
    "(collapsed); a run whose loss was still falling when it ended has not failed.",
    "Losses of epoch 1 count all runs that finished it; final values exist only for runs that did not fail.",
    "Tables and lines in figures show medians; tables give quartiles in parentheses.",
    "Sentences give differences of means (for losses, ratios of geometric means) with Welch's 95 % interval, and a "
    "direction only if the interval excludes no difference.",
    "Shares have Wilson's 95 % interval; their trend over a sweep is tested by permutation (Cochran and Armitage; exact "
    "up to 300 runs); survival is Kaplan and Meier's estimate.",
    "The time to a target is interpolated between the losses of blocks of about 4,096 images; the target is the lowest "
    "of 0.1, 0.2, 0.5, 1 and 2 nats that half of the runs of every level reach.",
    "Intervals are not corrected for their number; nothing was selected on the test images.",
)


def compose(configurations: Sequence[Configuration], problems: Sequence[Problem]) -> Page:
    """Writes the page about at least one configuration."""
    palette = Palette(configurations)
    sweeps = {axis: find_sweeps(configurations, axis) for axis in AXES}
    shown = _named_first(configurations, sweeps)
    lead: list[Block] = [
        _answers(configurations, sweeps),
        Columns([_curves(configurations, palette), _results_with_note(shown, configurations)]),
    ]
    commands = [run.result.command for each in configurations for run in each.runs if run.result.command]
    sections = [_sweep_section(found, palette) for found in sweeps.values() if found]
    sections += [*_failures(configurations, palette), *_accuracies(configurations, palette)]
    if len(shown) < len(configurations):
        sections.append(Section("configurations", "All configurations", [results(configurations, True)], True))
    sections += [
        *_published(configurations),
        Section("runs", "All runs, and the lines that run them again", [all_runs(configurations), Lines(commands)], True),
        *_problems(problems),
    ]
    sections += [
        Section("methods", "Methods", [Bullets(METHODS)], True),
        Section("provenance", "Versions, machines and data", [provenance(configurations)], True),
    ]
    return Page(_title(sweeps), _subtitle(configurations, problems), lead, sections)


def _answers(configurations: Sequence[Configuration], sweeps: Sweeps) -> Block:
    answers = [
        Bullets(lead_sentences(found[0]), f"{AXES[axis].capitalize()}, at {found[0].fixed}")
        for axis, found in sweeps.items()
        if found
    ]
    return Columns(answers) if len(answers) > 1 else answers[0] if answers else Bullets(overview(configurations))


def _curves(configurations: Sequence[Configuration], palette: Palette) -> Figures:
    crosses = ", a cross where a run failed" if any(each.failed for each in configurations) else ""
    return Figures([draw_curves(configurations, palette)], f"Training loss: every run thin, medians thick{crosses}.")


def _named_first(configurations: Sequence[Configuration], sweeps: Sweeps) -> Sequence[Configuration]:
    """Configurations in the table of the first screen: all, or those of the main sweeps where there are too many."""
    if len(configurations) <= MOST_NAMED:
        return configurations
    swept = [each for found in sweeps.values() for sweep in found[:1] for each in sweep.configurations]
    return [each for each in configurations if each in swept or not swept][:MOST_NAMED]


def _results_with_note(shown: Sequence[Configuration], configurations: Sequence[Configuration]) -> Table:
    hidden = len(configurations) - len(shown)
    note = "Medians of runs that did not fail; in sentences, parentheses hold 95 % intervals."
    return replace(results(shown, True), note=note + (f" {hidden} more configurations are listed below." if hidden else ""))


def _title(sweeps: Sweeps) -> str:
    swept = [f"the {AXES[axis]}" for axis, found in sweeps.items() if found]
    return f"What {' and '.join(swept)} {'do' if len(swept) > 1 else 'does'}" if swept else "Runs compared"


def _subtitle(configurations: Sequence[Configuration], problems: Sequence[Problem]) -> str:
    outcomes = Counter(run.result.outcome for each in configurations for run in each.runs)
    failed = sum(outcomes[outcome] for outcome in FAILED_OUTCOMES)
    parts = [f"{outcomes['trained']} trained"] if outcomes["trained"] else []
    parts += [f"{outcomes['learning']} still learning when they ended"] if outcomes["learning"] else []
    ways = ", ".join(f"{outcomes[outcome]} {outcome}" for outcome in FAILED_OUTCOMES if outcomes[outcome])
    parts += [f"{failed} failed ({ways})"] if failed else ["none failed"]
    text = f"{count_of(outcomes.total(), 'run')} of {count_of(len(configurations), 'configuration')}: {', '.join(parts)}."
    return text + (f" {count_of(len(problems), 'folder')} could not be counted; see the end." if problems else "")


def _sweep_section(sweeps: Sequence[Sweep], palette: Palette) -> Section:
    """Figures, sentences and a table for the main sweep; the others are lines in the figures, and sentences."""
    main, *others = sweeps
    drawings = draw_sweep(main.axis, sweeps, palette)
    caption = f"Every run that has a value is a dot, the line joins medians; shares with 95 % intervals. {_at_fixed(sweeps)}"
    blocks: list[Block] = [Figures(drawings, caption), Bullets(section_sentences(main)), levels(main)]
    if summary := best_of_other_sweeps(sweeps):
        blocks.append(Text(summary))
    blocks += [Bullets(section_sentences(sweep), f"With {sweep.fixed}") for sweep in others]
    return Section(main.axis, main.label.capitalize(), blocks)


def _at_fixed(sweeps: Sequence[Sweep]) -> str:
    fixed = sorted({sweep.fixed for sweep in sweeps})
    return f"All at {fixed[0]}." if len(fixed) == 1 else f"The sentences below are about {sweeps[0].fixed}."


def _failures(configurations: Sequence[Configuration], palette: Palette) -> list[Section]:
    concerned = [each for each in configurations if each.failed]
    if not concerned:
        return []
    whole = len(configurations) - len(concerned)
    caption = "Runs still training, by configuration." + (f" The other {whole} lost no run." if whole else "")
    return [
        Section(
            "failures",
            "When runs fail",
            [Columns([Figures([draw_survival(concerned, palette)], caption), failed_runs(concerned)])],
        )
    ]


def _accuracies(configurations: Sequence[Configuration], palette: Palette) -> list[Section]:
    if not any(TEST_ACCURACY.values(each) for each in configurations):
        return []
    figure = Figures(
        [draw_accuracies(configurations, palette)], "Every run that did not fail, on the training and on the test images."
    )
    return [Section("accuracy", "Train and test accuracy", [figure])]


def _published(configurations: Sequence[Configuration]) -> list[Section]:
    rows = published_rows(configurations)
    note = (
        'Published: one unseeded run of each configuration, in an unpublished course notebook ("Assignment 2", January 2025).'
    )
    table = Table(("configuration", "figure", "published", "median here", "the published value ranks"), rows, 2, note)
    return [Section("published", "Beside the published runs", [table], True)] if rows else []


def _problems(problems: Sequence[Problem]) -> list[Section]:
    rows = [str(problem) for problem in problems]
    return [Section("problems", "What could not be counted", [Bullets(rows)])] if rows else []
