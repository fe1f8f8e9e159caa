"""Paint, look and train in the browser: `python -m artdiff.gallery ckpt=RUN`."""

import logging
import os
import signal
import threading

from omegaconf import DictConfig

from artdiff import UserError
from artdiff.cli import command, plain
from artdiff.settings import LOOPBACK, GallerySettings

log = logging.getLogger(__name__)


def gallery(settings: GallerySettings) -> None:
    """Serve the page until it is interrupted. Raises `UserError`."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError:
        raise UserError("the gallery needs gradio: pip install 'artdiff[gallery]'") from None

    from artdiff.web.page import CSS, THEME, page
    from artdiff.web.studio import Studio
    from artdiff.web.training import Training

    for name in ("httpx", "httpx2", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    studio = Studio(settings)
    training = Training(studio.runs_dir)
    blocks: gradio.Blocks = page(studio, training)
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
            allowed_paths=[str(studio.out.absolute()), str(studio.runs_dir.absolute())],
            footer_links=[],
            ssr_mode=False,
            theme=THEME,
            css=CSS,
        )
    except OSError as error:
        raise UserError(f"the page cannot be served on {settings.host}:{settings.port} ({error}): set port=0") from None
    log.info("open %s in a browser; Ctrl-C ends it", address)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
    log.info("ending%s", "; the training is saved first" if training.running else "")
    training.end()
    blocks.close()


def _job(cfg: DictConfig) -> None:
    gallery(GallerySettings.of(plain(cfg)))


main = command(_job, config="gallery")

if __name__ == "__main__":
    main()
