"""A convolutional network learns to read handwritten digits.

    python docs/examples/mnist_cnn.py [--data FOLDER] [--backend python] [--steps 60]

FOLDER holds the files of MNIST's test part (10,000 images); without it they are fetched once. After 60 steps,
which take about two minutes on the python backend, the network reads 89 of 100 digits that it has never seen;
after 400 (four seconds with --backend numpy), 96.
"""

import argparse

from tinygpt_core import backends, nn, random
from tinygpt_core.dataset.images import load_mnist
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.optimizers import AdamW
from tinygpt_core.tensor import no_grad

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", help="folder of the IDX files")
parser.add_argument("--backend", default="python")
parser.add_argument("--steps", type=int, default=60)
options = parser.parse_args()

with backends.use(options.backend):
    random.seed(0)

    # Images are (N, 1, 28, 28): N images of one channel, grey from 0 to 1. The last fifth is set aside to see
    # what was learnt.
    images, labels = load_mnist("test", options.data)
    known = len(images) * 4 // 5

    # A convolution looks at every 3x3 neighbourhood with the same weights; pooling keeps the strongest answer
    # of each 2x2 square. So 28x28 pixels become 14x14, then 7x7 places, of which 32 channels say what is
    # there. A linear layer decides.
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(images.shape[2] // 4 * (images.shape[3] // 4) * 32, 10),
    )
    print(model)

    loss_of = CrossEntropyLoss()
    optimizer = AdamW(model, learning_rate=2e-3)
    for step in range(1, options.steps + 1):
        start = (step - 1) * 32 % (known // 32 * 32)  # the images come in no order as it is
        loss = loss_of(model(images[start : start + 32]), labels[start : start + 32]).mean()
        loss.backward()
        optimizer.update()
        optimizer.zero_grad()
        if step % 20 == 0 or step == options.steps:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)

    # What does it say about digits it has not seen?
    model.eval()
    with no_grad():
        unseen = images[known : known + 500]
        answers = model(unseen).argmax(1).to_python()
    truth = labels[known : known + 500].to_python()
    right = sum(answer == digit for answer, digit in zip(answers, truth, strict=True))
    print(f"{right} of {len(truth)} unseen digits read correctly")

    # One of them, drawn with characters, and the network's answer.
    for row in unseen[0, 0].to_python():
        print("".join(" .:*#"[min(int(shade * 5), 4)] for shade in row))
    print(f"The network reads {answers[0]}, and it is {truth[0]}.")
