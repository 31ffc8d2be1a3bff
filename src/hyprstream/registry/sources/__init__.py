"""Places models come from, one file each, all of the shape in `base.py`."""
