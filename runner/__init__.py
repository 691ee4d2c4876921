"""A configuration-driven experiment runner for PyTorch.

``python -m runner`` trains what the configuration describes; ``python -m runner --help`` lists the rest.
Importing this package imports neither torch nor Hydra, so that help and shell completion stay fast.
"""

__version__ = "0.1.0"
