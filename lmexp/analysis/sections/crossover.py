"""When a start that costs more has paid for itself: of plans that compile, the crossover step."""

from lmexp.analysis.analyse import Analysis
from lmexp.analysis.crossing import crossovers
from lmexp.analysis.measures import number_text
from lmexp.analysis.sections.shared import DASH


def crossover(analysis: Analysis) -> list[dict[str, str]]:
    """Return one row per compared level and place of the other factor; none for plans that do not ask."""
    return [
        {
            "level": level,
            "place": place,
            "steps": DASH if found.value is None else number_text(found.value, 0),
            "interval": f"{number_text(found.low, 0)} to {number_text(found.high, 0)}" if found.has_interval else DASH,
            "n": str(found.n_seeds),
            "why": found.undefined or "",
        }
        for (level, place), found in crossovers(analysis).items()
    ]
