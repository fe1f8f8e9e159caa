"""Paint, browse and train in a web browser: `python -m artdiff.gallery ckpt=RUN`."""

import logging
import os
import signal
import tempfile
import threading
from types import FrameType

from omegaconf import DictConfig

from artdiff import UserError
from artdiff.cli import command, plain
from artdiff.settings.sharing import LOOPBACK, GallerySettings

log = logging.getLogger(__name__)


def gallery(settings: GallerySettings) -> None:
    """Serve the page until it is interrupted. Raises `UserError`."""
    with tempfile.TemporaryDirectory(prefix="artdiff") as folder:  # only this user can read it; removed at the end
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        try:
            import gradio  # noqa: F401
        except ImportError:
            raise UserError("the gallery needs gradio: pip install 'artdiff[gallery]'") from None
        _serve(settings)


def _serve(settings: GallerySettings) -> None:
    from artdiff.web.page import CSS, THEME, page
    from artdiff.web.studio import Studio
    from artdiff.web.training import Training

    for name in ("httpx", "httpx2", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    studio = Studio(settings)
    training = Training(studio.runs_dir)
    blocks = page(studio, training)
    blocks.queue(max_size=256)
    others = settings.host not in LOOPBACK
    try:
        _, address, _ = blocks.launch(
            server_name=settings.host,
            server_port=settings.port or None,
            auth=(settings.user, settings.password) if settings.password else None,
            share=False,
            inbrowser=settings.open and not others,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            max_file_size=int(settings.upload_megabytes * 1e6),
            footer_links=[],
            ssr_mode=False,
            theme=THEME,
            css=CSS,
        )
    except Exception as error:  # a port in use, an unknown host: each raises another class
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise UserError(
            f"the page cannot be served on {settings.host}:{settings.port} ({reason}): set port=0"
        ) from None
    log.info("open %s in a browser; Ctrl-C ends it", address)
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second signal ends it at once
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    ended.wait()
    blocks.close(verbose=False)
    if training.running:
        log.info("waiting for the training to save; a second Ctrl-C leaves without waiting")
    training.end()


def _job(cfg: DictConfig) -> None:
    gallery(GallerySettings.of(plain(cfg)))


main = command(_job, config="gallery")

if __name__ == "__main__":
    main()
