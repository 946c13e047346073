"""The networks that `make_keras.py` exports; most take windows of 22×26 pixels, channels last."""

from collections.abc import Callable

import keras
from keras import KerasTensor, Sequential, layers

WINDOW = (22, 26, 3)

Layers = Callable[[KerasTensor], KerasTensor]


def network(body: Layers, window: tuple[int | None, ...] = WINDOW) -> keras.Model:
    """Return a functional model of one image."""
    image = keras.Input(window, name="image")
    return keras.Model(image, body(image))


def chain(*parts: keras.Layer | Layers) -> Layers:
    """Return a function that applies layers one after another."""

    def body(value: KerasTensor) -> KerasTensor:
        for part in parts:
            value = part(value)
        return value

    return body


def trunk() -> Layers:
    """Two unpadded convolutions and pools: windows of 22×26 become a map of 4×5×6."""
    return chain(
        *(layers.Conv2D(4, 3, activation="relu"), layers.MaxPooling2D()),
        *(layers.Conv2D(6, 3), layers.ReLU(), layers.MaxPooling2D()),
    )


def classes(activation: str | None = "softmax", units: int = 5) -> keras.Layer:
    """The last layer."""
    return layers.Dense(units, activation=activation)


def dense() -> Layers:
    """A hidden layer, dropout and the last layer."""
    return chain(layers.Dense(4, activation="relu"), layers.Dropout(0.5), classes())


def flat_head(*parts: keras.Layer) -> keras.Model:
    """Return a network with layers between the trunk and two fully connected layers."""
    return network(chain(trunk(), *parts, layers.Flatten(), dense()))


def through(*parts: keras.Layer | Layers) -> keras.Model:
    """Return a network with layers in the middle of the trunk, on maps of 10×12×4, and a global average."""
    return network(
        chain(
            *(layers.Conv2D(4, 3, activation="relu"), layers.MaxPooling2D()),
            *parts,
            *(layers.Conv2D(6, 3, activation="relu"), layers.GlobalAveragePooling2D(), classes()),
        )
    )


def mnist() -> keras.Model:
    """The convolutional network of Keras's first example, narrower."""
    return Sequential(
        [
            *(keras.Input((28, 28, 1)), layers.Conv2D(4, 3, activation="relu"), layers.MaxPooling2D((2, 2))),
            *(layers.Conv2D(6, 3, activation="relu"), layers.MaxPooling2D((2, 2))),
            *(layers.Flatten(), layers.Dropout(0.5), layers.Dense(10, activation="softmax")),
        ]
    )


def mobilenet_head() -> keras.Model:
    """MobileNet's head: the average as a map of 1×1, a convolution, and a Reshape."""
    pool = layers.GlobalAveragePooling2D(keepdims=True)
    return network(
        chain(trunk(), pool, layers.Dropout(0.5), layers.Conv2D(5, 1), layers.Reshape((5,)), layers.Softmax())
    )


def residual(image: KerasTensor) -> KerasTensor:
    """ResNet's block, padded as Keras's own ResNet is, with explicit zeros."""
    value = layers.ZeroPadding2D(1)(image)
    value = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, strides=2)(value)))
    branch = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(value))
    value = layers.ReLU()(layers.Add()([value, branch]))
    return classes()(layers.GlobalAveragePooling2D()(value))


def cropped_residual(image: KerasTensor) -> KerasTensor:
    """A residual block without padding."""
    value = layers.Conv2D(4, 3, activation="relu")(image)
    value = layers.Add()([layers.Cropping2D(1)(value), layers.Conv2D(4, 3)(value)])
    return classes()(layers.Flatten()(layers.MaxPooling2D(4)(value)))


def concatenate(image: KerasTensor) -> KerasTensor:
    """Inception's branches, of one size without padding."""
    value = layers.Conv2D(4, 3, activation="relu")(image)
    wide = layers.Conv2D(3, 3, activation="relu")(layers.Conv2D(3, 1)(value))
    value = layers.Concatenate()([wide, layers.MaxPooling2D(3, 1)(value)])
    return dense()(layers.Flatten()(layers.MaxPooling2D(4)(value)))


def squeeze_excite(image: KerasTensor) -> KerasTensor:
    """Channels scaled by factors that are computed from the average of the whole map."""
    value = trunk()(image)
    gates = layers.Dense(6, activation="sigmoid")(layers.GlobalAveragePooling2D()(value))
    value = layers.Multiply()([value, layers.Reshape((1, 1, 6))(gates)])
    return dense()(layers.Flatten()(value))


def activations(value: KerasTensor) -> KerasTensor:
    """The sum of the outputs of several activations of the map."""
    names = ("elu", "swish", "softplus", "tanh", "hard_sigmoid", "selu", "softsign", "exponential")
    parts = [layers.LeakyReLU(), layers.PReLU(shared_axes=(1, 2)), *map(layers.Activation, names)]
    return layers.Add()([part(value) for part in parts])


def nested(image: KerasTensor) -> KerasTensor:
    """Transfer learning: a model in a model."""
    return dense()(layers.GlobalAveragePooling2D()(network(trunk())(image)))


def rescaled() -> keras.Model:
    """A network whose first layer rescales bytes."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    channels = list(zip(mean, std, strict=True))
    first = layers.Rescaling([1 / 255 / b for _, b in channels], [-a / b for a, b in channels])
    return network(chain(first, trunk(), layers.Flatten(), dense()))


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "flatten": flat_head,
    "mnist": mnist,
    "batchnorm": lambda: flat_head(layers.BatchNormalization()),
    "batchnorm_flat": lambda: network(
        chain(
            trunk(),
            layers.Flatten(),
            layers.BatchNormalization(),
            layers.Dense(4),
            layers.BatchNormalization(),
            classes(),
        )
    ),
    "global_average": lambda: network(chain(trunk(), layers.GlobalAveragePooling2D(), dense())),
    "global_max": lambda: network(chain(trunk(), layers.GlobalMaxPooling2D(), dense())),
    "open_size": lambda: network(chain(trunk(), layers.GlobalAveragePooling2D(), dense()), (None, None, 3)),
    "average_pool": lambda: network(chain(trunk(), layers.AveragePooling2D((4, 5)), layers.Flatten(), dense())),
    "same_strided": lambda: network(
        chain(
            *(layers.Conv2D(4, 3, strides=2, padding="same", activation="relu") for _ in range(2)),
            *(layers.Flatten(), dense()),
        )
    ),
    "same_strided_odd": lambda: network(
        chain(
            *(layers.Conv2D(4, 3, strides=2, padding="same", activation="relu") for _ in range(2)),
            *(layers.Flatten(), dense()),
        ),
        (21, 27, 3),
    ),
    "same_pool": lambda: through(layers.MaxPooling2D(3, 2, "same"), layers.AveragePooling2D(3, 1, "same")),
    "separable": lambda: through(
        *(layers.DepthwiseConv2D(3), layers.BatchNormalization(), layers.ReLU(6)),
        *(layers.SeparableConv2D(6, 3), layers.Activation("swish")),
    ),
    "dilated": lambda: through(layers.Conv2D(4, 3, dilation_rate=2)),
    "grouped": lambda: through(layers.Conv2D(4, 3, groups=2)),
    "zero_padding": lambda: through(layers.ZeroPadding2D(((0, 1), (0, 1))), layers.Conv2D(4, 3, strides=2)),
    "residual": lambda: network(residual),
    "cropped_residual": lambda: network(cropped_residual),
    "concatenate": lambda: network(concatenate),
    "mobilenet_head": mobilenet_head,
    "conv_head": lambda: network(chain(trunk(), layers.Conv2D(5, (4, 5)), layers.Flatten(), layers.Softmax())),
    "permute": lambda: flat_head(layers.Permute((3, 1, 2))),
    "rescaled": rescaled,
    "sigmoid": lambda: network(chain(trunk(), layers.Flatten(), classes("sigmoid", 1))),
    "logits": lambda: network(chain(trunk(), layers.Flatten(), classes(None))),
    "activations": lambda: through(activations),
    "layer_norm": lambda: through(layers.LayerNormalization()),
    "dense_on_map": lambda: through(layers.Dense(4, activation="relu")),
    "nested": lambda: network(nested),
    "upsampling": lambda: through(layers.UpSampling2D()),
    "squeeze_excite": lambda: network(squeeze_excite),
}
