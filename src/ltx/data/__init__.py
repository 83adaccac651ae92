"""What a data set is, and its batches as pure functions of (stream, step)."""

from ltx.data.splits import Dataset as Dataset
from ltx.data.splits import Facts as Facts
from ltx.data.splits import Files as Files
