"""What a run tells its user: metrics and reports, a progress bar, TensorBoard events and plots.

Take from here: `reports`, `plots`, and the classes `Progress` and `TensorBoard`.
"""

from cifar_jax.reporting.progress import Progress
from cifar_jax.reporting.tensorboard import TensorBoard

__all__ = ["Progress", "TensorBoard", "plots", "reports"]
