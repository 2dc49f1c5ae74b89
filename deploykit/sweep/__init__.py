"""Where the cells of a sweep run: a file per engine, all with the face in `interface.py`."""
