"""What a run tells its user: metrics and reports, a progress bar, TensorBoard events and plots.

Take from here: `history_file`, `plots`, `reports`, and the classes `HistoryFile`, `Progress` and
`TensorBoard`.
"""

from cifar_jax.reporting.history_file import HistoryFile
from cifar_jax.reporting.progress import Progress
from cifar_jax.reporting.tensorboard import TensorBoard

__all__ = ["HistoryFile", "Progress", "TensorBoard", "history_file", "plots", "reports"]
