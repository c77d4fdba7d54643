"""What a run tells its user: progress, metrics, JSON files, TensorBoard events and plots.

Take from here: `reports` and `plots`.
"""

__all__ = ["plots", "reports"]
