"""The exception for mistakes that users can fix. It is shown as a message, without a stack trace."""


class UserError(Exception):
    """A mistake in the input (a config field, a file, a flag). The message says what to do."""
