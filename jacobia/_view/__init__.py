"""Views, which users index and multiply, alone or in trees. To read the code, start with `jacobian.py`."""
