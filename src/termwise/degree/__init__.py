"""Degree in the input: the second axis, independent of depth.

`circle` measures on Gaussian inputs, `walsh` on Boolean ones, `ladder` on real data; `entry.degrees` is the way in, and
`spectrum.DegreeSpectrum` what comes out.
"""

from termwise.degree.entry import degrees
from termwise.degree.gaussian import Gaussian
from termwise.degree.spectrum import DegreeSpectrum

__all__ = ["DegreeSpectrum", "Gaussian", "degrees"]
