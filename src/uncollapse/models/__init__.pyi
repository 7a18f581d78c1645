"""Public names and the modules that define them; type checkers read the same table."""

from uncollapse.models.base import LatentModel as LatentModel
from uncollapse.models.base import Latents as Latents
from uncollapse.models.base import Terms as Terms
from uncollapse.models.base import evaluating as evaluating
from uncollapse.models.base import gradient as gradient
from uncollapse.models.base import kl_per_unit as kl_per_unit
from uncollapse.models.base import support_of as support_of
from uncollapse.models.base import to_device as to_device
from uncollapse.models.batch_context import BatchContext as BatchContext
from uncollapse.models.composed import ComposedModel as ComposedModel
from uncollapse.models.composed import ModelBound as ModelBound
from uncollapse.models.composed import RowModel as RowModel
from uncollapse.models.composed import differentiable_twice as differentiable_twice
from uncollapse.models.layered import LayeredModel as LayeredModel
from uncollapse.models.mixture import EnumeratedMixtureModel as EnumeratedMixtureModel
from uncollapse.models.mixture import MarginalMixtureModel as MarginalMixtureModel
from uncollapse.models.mixture import MixtureModel as MixtureModel
from uncollapse.models.mixture import component_kl as component_kl
from uncollapse.models.sequence import HistoryLSTM as HistoryLSTM
from uncollapse.models.sequence import SequenceModel as SequenceModel
from uncollapse.models.vae import VAEModel as VAEModel
