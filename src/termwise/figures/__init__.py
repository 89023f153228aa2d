"""Figures for papers and notebooks, drawn with matplotlib: one call each.

    pip install 'termwise[figures]'

>>> from termwise import figures
>>> figures.spectrum(profile)  # or profile.plot(); returns the Axes
>>> figures.save(figures.heat_map(timeline), "heat.pdf")  # one column of a paper wide, or columns=2

Each takes a result and returns the Axes that it was drawn into.  Without `ax=` it makes a figure of its own, in a
notebook one of pyplot, which Jupyter shows below the cell and then closes; elsewhere one that pyplot does not keep, so
that a script may draw any number of them: `save` writes it.  To see one in a window, draw into Axes of your own:

>>> _, ax = matplotlib.pyplot.subplots()
>>> figures.spectrum(profile, ax=ax)
>>> matplotlib.pyplot.show()

The title is the sentence that the figure shows, computed from the data; `title=False` leaves it out, for the caption.
matplotlib's settings stay as they are, and the font is the one that they name.
"""

from termwise.figures.drawing import save
from termwise.figures.profiles import spectrum, triptych, truncation
from termwise.figures.spectra import degree_course, degrees, lesion, tiles
from termwise.figures.timelines import heat_map, mean_depth, ridgeline, time_learned

__all__ = [
    "degree_course",
    "degrees",
    "heat_map",
    "lesion",
    "mean_depth",
    "ridgeline",
    "save",
    "spectrum",
    "tiles",
    "time_learned",
    "triptych",
    "truncation",
]
