"""What the report says, in which order: the answer, a section for each question, and the rest folded."""

from collections import Counter
from collections.abc import Sequence

from lit_mnist.record.result import FAILED_OUTCOMES
from lit_mnist.report.drawing import Palette
from lit_mnist.report.experiments import AXES, Group, Sweep, find_sweeps
from lit_mnist.report.figures import LABELS, draw_accuracies, draw_curves, draw_survival, draw_sweeps
from lit_mnist.report.findings import lead_sentences, overview, section_sentences
from lit_mnist.report.map import map_section
from lit_mnist.report.quantities import DECLARED, TEST_ACCURACY
from lit_mnist.report.render import Block, Bullets, Figures, Lines, Page, Section
from lit_mnist.report.tables import all_runs, count_of, levels, provenance, published, results
from lit_mnist.report.why import why_section

MOST_NAMED = 12  # groups in the table of the first screen
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
    "of 0.1, 0.2, 0.5, 1 and 2 nats that half of the runs of every level reach. The loss after a number of SGD steps is "
    "the mean of the blocks that end in their last tenth.",
    "Intervals are not corrected for their number; nothing was selected on the test images.",
)


def compose(groups: Sequence[Group], problems: Sequence[str]) -> Page:
    """Writes the page about at least one group."""
    palette = Palette(groups)
    sweeps = {axis: found for axis in AXES if (found := find_sweeps(groups, axis))}
    main = [found[0] for found in sweeps.values()]
    sections = [*filter(None, (why_section(groups, main, palette), map_section(groups, palette)))]
    sections += [_sweep_section(found, palette) for found in sweeps.values()]
    if concerned := [each for each in groups if each.failed]:
        whole = count_of(len(groups) - len(concerned), "configuration")
        caption = f"Runs still training, by configuration; {whole} lost no run."
        sections.append(Section("failures", "When runs fail", [Figures([draw_survival(concerned, palette)], caption)]))
    if any(TEST_ACCURACY.values(each) for each in groups):
        caption = "Every run that did not fail, on the training and on the test images."
        figure = Figures([draw_accuracies(groups, palette)], caption)
        sections.append(Section("accuracy", "Train and test accuracy", [figure]))
    if len(groups) > MOST_NAMED:
        sections.append(Section("configurations", "All configurations", [results(groups, True)], True))
    if (beside := published(groups)).rows:
        sections.append(Section("published", "Beside the published runs", [beside], True))
    lines = Lines([run.result.command for each in groups for run in each.runs if run.result.command])
    sections.append(Section("runs", "All runs, and the lines that run them again", [all_runs(groups), lines], True))
    if problems:
        sections.append(Section("problems", "What could not be counted", [Bullets(problems)]))
    methods = [*METHODS, *(method for section in sections for method in section.methods)]
    sections.append(Section("methods", "Methods", [Bullets(methods)], True))
    sections.append(Section("provenance", "Versions, machines and data", [provenance(groups)], True))
    swept = " and ".join(f"the {AXES[axis]}" for axis in sweeps)
    title = f"What {swept} {'do' if len(sweeps) > 1 else 'does'}" if sweeps else "Runs compared"
    return Page(title, _subtitle(groups, problems), _first_screen(groups, main, palette), sections)


def _subtitle(groups: Sequence[Group], problems: Sequence[str]) -> str:
    outcomes = Counter(run.result.outcome for each in groups for run in each.runs)
    failed = sum(outcomes[outcome] for outcome in FAILED_OUTCOMES)
    parts = [f"{outcomes['trained']} trained"] if outcomes["trained"] else []
    parts += [f"{outcomes['learning']} still learning when they ended"] if outcomes["learning"] else []
    ways = ", ".join(f"{outcomes[outcome]} {outcome}" for outcome in FAILED_OUTCOMES if outcomes[outcome])
    parts += [f"{failed} failed ({ways})"] if failed else ["none failed"]
    text = f"{count_of(outcomes.total(), 'run')} of {count_of(len(groups), 'configuration')}: {', '.join(parts)}."
    return text + (f" {count_of(len(problems), 'folder')} could not be counted; see the end." if problems else "")


def _first_screen(groups: Sequence[Group], main: Sequence[Sweep], palette: Palette) -> list[Block | list[Block]]:
    """The answers; below them all curves beside a line for each group, or for those of the main sweeps if they are many."""
    answers: list[Block] = [Bullets(lead_sentences(sweep), f"{sweep.label.capitalize()}, at {sweep.fixed}") for sweep in main]
    swept = {each for sweep in main for each in sweep.groups} or {*groups}
    shown = [each for each in groups if len(groups) <= MOST_NAMED or each in swept][:MOST_NAMED]
    hidden = f" {len(groups) - len(shown)} more configurations are listed below." if len(shown) < len(groups) else ""
    note = f"Medians of runs that did not fail; in sentences, parentheses hold 95 % intervals.{hidden}"
    crosses = ", crosses where runs failed" if any(each.failed for each in groups) else ""
    key = f" {palette.key}" if len(groups) > LABELS else ""
    curves = Figures([draw_curves(groups, palette)], f"Every run thin, medians thick{crosses}.{key}")
    first = answers if len(answers) > 1 else (answers or [Bullets(overview(groups))])[0]
    return [first, [curves, results(shown, True, note)]]


def _sweep_section(sweeps: Sequence[Sweep], palette: Palette) -> Section:
    """Figures, sentences and a table for the main sweep; the others are lines in the figures, and sentences."""
    main, *others = sweeps
    caption = "Every run that has a value is a dot, the line joins medians; shares with 95 % intervals."
    caption += f" {'The sentences below are about runs' if others else 'All'} at {main.fixed}."
    blocks: list[Block] = [Figures([draw_sweeps(sweeps, each, palette) for each in (None, *DECLARED)], caption)]
    blocks += [Bullets(section_sentences(main)), levels(main)]
    blocks += [Bullets(section_sentences(sweep), f"At {sweep.fixed}") for sweep in others]
    return Section(main.axis, main.label.capitalize(), blocks)
