"""Does the gallery lose requests or leak memory when many clients paint at once?

    python benchmarks/gallery_load.py --ckpt RUN

Starts `artdiff.gallery` on a free port. 8 clients request 25 pictures each. Prints how many were answered, how long it
took, and the memory of the page after each tenth of the requests.
"""

import argparse
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from gradio_client import Client

import artdiff

CLIENTS, EACH, STEPS = 8, 25, 2


def memory(process: int) -> int:
    """The resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 // 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", required=True)
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder, label = tempfile.mkdtemp(), artdiff.load(args.ckpt).classes[:1]  # one picture a request
    words = [f"ckpt={args.ckpt}", f"runs_dir={folder}", f"out={folder}/pictures", f"port={port}", "open=false"]
    served = subprocess.Popen([sys.executable, "-m", "artdiff.gallery", *words], stderr=subprocess.PIPE, text=True)
    assert served.stderr is not None
    next(line for line in served.stderr if "in a browser" in line)
    threading.Thread(target=served.stderr.read, daemon=True).start()
    came, lost, seen = list[float](), list[str](), list[int]()
    lock, begun = threading.Lock(), time.perf_counter()

    def paint(number: int) -> None:
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        client.predict(args.ckpt, api_name="/known")  # as the page does when a run is chosen
        for request in range(EACH):
            started = time.perf_counter()
            try:
                asked = (args.ckpt, label, "", "", 1, 1000 * number + request, None, 0.6, STEPS, 2.0, "train", None)
                status, *_ = client.predict(*asked, api_name="/paint")  # the order of the page's inputs
                assert status.startswith("done"), status
            except Exception as error:  # any failure counts
                with lock:
                    lost.append(f"{type(error).__name__} {error}")
                continue
            with lock:
                came.append(time.perf_counter() - started)
                if len(came) % (CLIENTS * EACH // 10) == 0:
                    seen.append(memory(served.pid))

    clients = [threading.Thread(target=paint, args=(number,)) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    took = time.perf_counter() - begun
    written = len(list(Path(folder, "pictures").glob("*.png")))
    served.terminate()
    print(f"{CLIENTS} clients, {CLIENTS * EACH} requests: {len(came)} answered, {len(lost)} lost, {written} pictures")
    for reason in sorted(set(lost)):
        print(f"lost: {reason}")
    if came:
        middle, most = sorted(came)[len(came) // 2], max(came)
        print(f"{took:.0f} s together; an answer took {middle:.1f} s (median), {most:.1f} s at most")
        print(f"memory after each tenth, MiB: {', '.join(map(str, seen))}")


if __name__ == "__main__":
    main()
