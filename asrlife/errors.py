"""The one error that a user's input can cause."""


class InputError(ValueError):
    """Bad input or usage: the message names the cause and the fix; the command line exits with 2."""
