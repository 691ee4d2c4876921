"""A configuration-driven experiment runner for PyTorch.

``runner`` trains what the configuration describes; ``runner --help`` lists the rest. In a notebook
or a service, `load_run` opens what was trained.
"""

TYPE_CHECKING = False  # typing is not imported: a file beside the user's data may hide it (see `runner.hidden`)
if TYPE_CHECKING:
    from runner.trained.run import Predictions, Run, load_run

__all__ = ["Predictions", "Run", "load_run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # Not imported before it is asked for: neither torch nor Hydra, so that help and shell completion stay fast.
    if name in __all__:
        from runner.trained import run

        return getattr(run, name)
    raise AttributeError(f"module 'runner' has no attribute {name!r}")
