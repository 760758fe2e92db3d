"""bgd is upgraded as a service: with a socket unit, no client is turned away meanwhile."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from tests.faults.figures import record
from tests.support import wait_until
from tests.systemd.machine import Machine

CONNECTS = 100
RUNNING = 20
RESTARTS = 3  # while clients connect
GATE = "until test -e /tmp/gate; do sleep 0.5; done; exit $BGD_JOB_ID"
PYTHON = "/usr/local/lib/bgd/bin/python"

# Prints how many connections were answered, refused and hung up, and the slowest time; argv: how many to make
CLIENTS = """
import json, socket, sys, time
from bgd import __version__
from bgd.wire.framing import frame
from bgd.wire.messages import PROTOCOL, Hello, encode
answered = refused = hung_up = 0
slowest = 0.0
def hello_of_daemon():
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("/run/bgd/bgd.sock")
        try:
            client.sendall(frame(encode(Hello(PROTOCOL, __version__, "client"))))
            return client.recv(1 << 16)
        except OSError:
            return b""
for _ in range(int(sys.argv[1])):
    began_at = time.monotonic()
    try:
        # who came just before the old one ended comes again, as bgd's clients do
        hello = hello_of_daemon() or hello_of_daemon()
    except OSError:
        refused += 1
        continue
    answered += bool(hello)
    hung_up += not hello
    slowest = max(slowest, time.monotonic() - began_at)
    time.sleep(0.02)
print(json.dumps([answered, refused, hung_up, slowest]))
"""

# Queues copies of a script and prints their ids; argv: the script, how many
SUBMIT = """
import sys
from bgd import Client
item = {"argv": ["sh", "-c", sys.argv[1]], "cwd": "/"}
print(*(job.id for job in Client("/run/bgd/bgd.sock").submit_many([item] * int(sys.argv[2]))))
"""
# Waits for jobs and prints their exit codes; argv: the ids
WAIT = """
import sys
from bgd import Client
print(*(job.exit_code for job in Client("/run/bgd/bgd.sock").wait(map(int, sys.argv[1:]))))
"""


def test_nobody_is_refused_while_bgd_is_replaced_behind_its_socket_unit(machine: Machine):
    machine.run("systemctl", "stop", "bgd")
    machine.write("/etc/bgd/bgd.toml", f"[daemon]\nslots = {RUNNING}\n")
    machine.run("systemctl", "start", "bgd.socket")
    jobs = machine.run(PYTHON, "-c", SUBMIT, GATE, str(RUNNING)).split()
    wait_until(lambda: len(machine.run("bgctl", "list", "--state", "running", "--ids").split()) == RUNNING)
    with ThreadPoolExecutor() as pool:
        clients = pool.submit(machine.run, PYTHON, "-c", CLIENTS, str(CONNECTS))
        restarts = 0
        while not clients.done() and restarts < RESTARTS:
            machine.run("systemctl", "restart", "bgd")
            restarts += 1
        answered, refused, hung_up, slowest = json.loads(clients.result())

    assert (answered, refused, hung_up) == (CONNECTS, 0, 0)
    machine.run("touch", "/tmp/gate")
    codes = machine.run(PYTHON, "-c", WAIT, *jobs).split()
    assert codes == [str(int(job) % 256) for job in jobs]
    machine.write("/etc/bgd/bgd.toml", "")
    machine.run("systemctl", "stop", "bgd.socket", "bgd")
    machine.run("systemctl", "start", "bgd")
    record(
        "the service is restarted behind its socket unit while clients come",
        restarts=restarts,
        connects_answered=answered,
        connects_refused=refused,
        hung_up_on=hung_up,
        slowest_answer=f"{slowest * 1000:.0f} ms",
        jobs_running=RUNNING,
        right_ends=RUNNING,
    )
