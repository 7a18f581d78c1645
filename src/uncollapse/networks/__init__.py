"""Networks: encoders and decoders that promise nothing by themselves.

An encoder is any module that maps data to the raw outputs that a posterior makes a distribution of.
Two members are used where an encoder has them: a method `initialize_from_data(data)`, called with
rows before training, and a last linear layer under the name `head`.
"""

from uncollapse.networks.perceptron import Features, MLPDecoder, Perceptron, PerceptronEncoder
from uncollapse.networks.recurrent import BackwardLSTMEncoder, LSTMEncoder

__all__ = [
    "BackwardLSTMEncoder",
    "Features",
    "LSTMEncoder",
    "MLPDecoder",
    "Perceptron",
    "PerceptronEncoder",
]
