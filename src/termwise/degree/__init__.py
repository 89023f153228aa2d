"""Degree in the input: the second axis, independent of depth.

`circle` measures on Gaussian inputs, `walsh` on Boolean ones, `ladder` on real data; `entry.degrees` is the way in, and
`spectrum.DegreeSpectrum` what comes out.  `terms` sets depth beside it: the terms of each depth on such circles.
"""

from termwise.degree.entry import degrees
from termwise.degree.gaussian import Gaussian
from termwise.degree.spectrum import DegreeSpectrum
from termwise.degree.terms import depth_degrees
from termwise.degree.tiles import DepthDegrees

__all__ = ["DegreeSpectrum", "DepthDegrees", "Gaussian", "degrees", "depth_degrees"]
