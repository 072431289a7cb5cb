"""Videos of episodes."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from app.core.atomic_files import atomic_write


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int) -> None:
    """Write frames as MP4 (H.264, yuv420p), which every browser plays.

    Args:
        path: The file, which appears only when it is complete.
        frames: RGB frames (H, W, 3) uint8 of one size, at least one. An odd height or width, which yuv420p does not
            allow, is made even by repeating the last row or column.
        fps: Frames per second.

    Raises:
        ValueError: There are no frames.
    """
    import imageio.v2 as imageio

    count = 0
    with atomic_write(path) as temporary:
        # quality 8 of 10: thin track borders stay sharp; faststart: playable while it loads
        writer = imageio.get_writer(
            temporary, format="FFMPEG", mode="I", fps=fps, codec="libx264", pixelformat="yuv420p", quality=8,
            macro_block_size=2, ffmpeg_log_level="error", output_params=["-movflags", "+faststart"],
        )  # fmt: skip
        with writer:
            for count, frame in enumerate(frames, start=1):  # noqa: B007  (the count is used below)
                writer.append_data(_even(frame))
        if not count:
            raise ValueError(f"no frames for the video {path}")


def _even(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
