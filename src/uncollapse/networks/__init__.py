"""Networks: encoders and decoders that promise nothing by themselves.

An encoder is any module that maps data to the raw outputs that a posterior makes a distribution of.
Two capabilities are used where an encoder has them: `InitializedFromData`, and a last linear layer
under the name `head`.
"""

from uncollapse.networks.capabilities import InitializedFromData, linear_head
from uncollapse.networks.perceptron import Features, MLPDecoder, Perceptron, PerceptronEncoder
from uncollapse.networks.recurrent import BackwardLSTMEncoder, LSTMEncoder

__all__ = [
    "BackwardLSTMEncoder",
    "Features",
    "InitializedFromData",
    "LSTMEncoder",
    "MLPDecoder",
    "Perceptron",
    "PerceptronEncoder",
    "linear_head",
]
