"""What a user can be told: one root, a leaf per cause. A message is one line per mistake and names the way out.

Our own mistakes are assertions; these are the world's. They hold a single string, so they survive pickling on
their way through worker processes.
"""


class SuiteError(Exception):
    """Anything that a door prints as a line instead of a traceback."""


class ConfigError(SuiteError):
    """A config file, a key or an override is wrong; one line per mistake, all of them at once."""


class SourceError(SuiteError):
    """Text could not be had: a missing file, column or split, a null, bytes that are not UTF-8."""


class TokenizerError(SuiteError):
    """A tokenizer is missing, lacks <bos> or <eos>, or cannot be trained as asked."""


class TokensError(SuiteError):
    """Token shards are missing, unsealed, damaged, or made by another tokenizer."""


class SealError(SuiteError):
    """A folder is not sealed, or not what its manifest says."""


class HubError(SuiteError):
    """The Hugging Face Hub cannot be reached, refuses, or does not hold what it should."""


class IdentityError(SuiteError):
    """A run's folder holds another run than the one asked for."""


class DivergedError(SuiteError):
    """The loss or the gradient stopped being finite."""


class ExecutorError(SuiteError):
    """What was to run the work cannot: no Ray, no cluster, too few CPUs, nodes that differ."""


class WorkerError(SuiteError):
    """A worker process died and could not be replaced."""
