"""A network that delivers what a phone sends three times."""

import select
import socket
import threading

from sipp import HOST


class Relay:
    """Stands between a phone and the proxy. What comes back is passed on once, however often it
    comes: the phone has sent its request once only."""

    def __init__(self, port, copies=3):
        self.copies = copies
        self.front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.front.bind((HOST, 0))
        self.back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.back.connect((HOST, port))
        self.address = f"{HOST}:{self.front.getsockname()[1]}"
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.relay)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.front.close()
        self.back.close()

    def relay(self):
        phone, passed = None, set()
        while not self.over.is_set():
            ready, _, _ = select.select([self.front, self.back], [], [], 0.1)
            if self.front in ready:
                datagram, phone = self.front.recvfrom(65_535)
                for _ in range(self.copies):
                    self.back.send(datagram)
            if self.back in ready:
                datagram = self.back.recv(65_535)
                if datagram not in passed:
                    passed.add(datagram)
                    self.front.sendto(datagram, phone)
