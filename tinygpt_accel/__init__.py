"""tinygpt-accel: backends for tinygpt that stand on array libraries.

Importing this package imports no array library: each backend's plug-in module says cheaply whether it can run (`probe`), and loads the
rest when it is asked for (`factory`).
"""

__version__ = "0.1.0"
