"""The one exception for what a user can mend: it is shown as a single line, without a stack trace."""


class UserError(Exception):
    """A mistake in the input (a config field, a file, a flag); the message says what to do."""
