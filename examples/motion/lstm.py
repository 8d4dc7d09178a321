"""A recurrent classifier of motion: one LSTM layer over the steps of a window, and a linear head."""

import torch
from torch import Tensor, nn

AXES, WIDTH = 6, 128


class MotionLSTM(nn.Module):
    """(N, 100, 6) in, logits (N, classes) out; 70,535 parameters with 7 classes.

    The mean over all steps goes to the head, so that every part of a window counts the same.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(AXES, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, windows: Tensor) -> Tensor:
        steps, _ = self.lstm(windows)
        return self.head(torch.mean(steps, 1))
