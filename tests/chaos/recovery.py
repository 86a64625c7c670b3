"""What runs that do something to brokers share: after each fault, how long it is until every node serves again, and what the
fault cost; and in the end the account.

It must not know a fault.
"""

import math
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
import time

import checker

# After the brokers are whole, so long until a client of the load that gets no acknowledgement is made anew: its fault is not
# the service's.
RENEW_AFTER_S = 5
# A client's call that never returns ends its node after so long; then it has its time to serve again.
HUNG_S = 30
# A node that serves has to go on with it for so long.
STEADY_S = 2
# Calls that were sent get this time to be answered in the end.
ANSWER_S = 60


def carry_out(kind, name, arguments):
    """Makes a run and goes through it; whatever happens, all that it started is ended. The exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = pathlib.Path(tempfile.mkdtemp(prefix=f"forewarm-{name}."))
    run = kind(arguments, directory)
    try:
        return run.go()
    finally:
        run.close()
        if arguments.keep:
            print(f"logs and configurations are in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


class Recovery:
    def __init__(self, arguments, cluster):
        self.arguments, self.cluster = arguments, cluster
        self.began = time.monotonic()
        self.fleets = []
        # When each fault came, in milliseconds since the epoch, and its kind.
        self.faults = []
        # Nodes that were asked to end: their fleet and ending.
        self.terms = []
        self.wrong = []
        # By step and by group: for how long results stood, and acknowledgements, in the worst partition; and the seconds until
        # it served again, infinite where it had to be helped.
        self.table = {}

    @staticmethod
    def add_arguments(parser):
        for name, seconds, text in (
            ("--ready-max", 10, "from whole brokers until every node serves"),
            ("--patience", 45, "after which nodes that do not serve are asked to end"),
        ):
            parser.add_argument(name, type=float, default=seconds, metavar="SECONDS", help=text)
        text = "as a share of the calls, where delivery is at least once"
        parser.add_argument("--duplicates-max", type=float, default=0.02, help=text)
        parser.add_argument("--keep", action="store_true", help="keep logs and configurations, and say where")

    def say(self, what):
        print(f"{time.monotonic() - self.began:7.1f} s  {what}", flush=True)

    def begin(self):
        for group in self.fleets:
            group.start()
        at = time.monotonic()
        names = ", ".join(f"{group.name} ({len(group.nodes)} nodes)" for group in self.fleets)
        self.wait_serving(at, 120)
        self.say(f"all serve: {names}; {self.fleets[0].calls.rate:.0f} calls/s to each")

    def wait_serving(self, whole_at, deadline_s):
        """Waits until all groups serve, and go on with it; since when each does, None for what does not in time."""
        while True:
            for group in self.fleets:
                if group.answers.fault or group.calls.fault:
                    raise group.answers.fault or group.calls.fault
                self.renew_load(group, whole_at)
            served = {group: group.serves(whole_at) for group in self.fleets}
            if None not in served.values() and time.monotonic() > max(served.values()) + STEADY_S:
                return served
            if time.monotonic() > max(group.since(whole_at) for group in self.fleets) + deadline_s:
                return served
            time.sleep(0.1)

    def renew_load(self, group, whole_at):
        silent = [number for number, times in list(group.calls.taken_at.items()) if not times or times[-1] < whole_at]
        if silent and time.monotonic() > max(whole_at, group.calls.renewed_at) + RENEW_AFTER_S:
            group.calls.renewed_at = time.monotonic()
            group.calls.renewing.set()

    def recover(self, name, told, begin, whole_at):
        """Waits until all serve again and tells the step; helps what does not."""
        self.say(f"{name}: {told}; brokers whole after {whole_at - begin:.1f} s")
        served = self.wait_serving(whole_at, self.arguments.patience)
        end = time.monotonic()
        for group, at in served.items():
            self.tell(name, group, begin, whole_at, at, end)
        left = [group for group, at in served.items() if at is None]
        if left:
            self.faults.append((time.time() * 1_000, f"{name}, helped"))
            for group in left:
                self.help(name, group, whole_at)
            helped = self.wait_serving(time.monotonic(), 120)
            assert None not in helped.values(), "a group does not serve with nodes made anew"
            self.say("all serve again, after what did not was started again")

    def help(self, name, group, whole_at):
        """Ends the nodes that are not ready, or all where partitions are not answered nonetheless, and starts them again."""
        nodes, partitions = group.does_not_serve(whole_at)
        why = [f"{node.name}: {node.looks[-1][1]}" for node in nodes] or [f"partitions {partitions} are not answered"]
        self.say(f"    {group.name} does not serve and is asked to end: {'; '.join(why)}")

        def end(node):
            if ending := node.terminate():
                self.tell_term(name, group, ending)
            node.start_again()

        threads = [threading.Thread(target=end, args=(node,)) for node in nodes or group.nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def tell(self, name, group, begin, whole_at, served_at, end):
        took_s = math.inf if served_at is None else served_at - group.since(whole_at)
        (results, results_worst), (taken, taken_worst) = group.standstill(begin, served_at or end)
        self.table.setdefault(name, {})[group.name] = (results_worst, taken_worst, took_s)
        serves = "DOES NOT SERVE" if served_at is None else f"serves {took_s:.1f} s after"
        if took_s > self.arguments.ready_max:
            self.wrong.append(f"{name}: {group.name} did not serve within {self.arguments.ready_max:g} s")
            serves += "  !!!"
        stood = f"results stood {results:.1f} / {results_worst:.1f} s, brokers {taken:.1f} / {taken_worst:.1f} s"
        if results_worst > taken_worst + HUNG_S + self.arguments.ready_max:
            self.wrong.append(f"{name}: results of {group.name} stood {results_worst:.0f} s, the brokers {taken_worst:.0f} s")
            stood += "  !!!"
        print(f"{'':11}{group.name:13} {stood}; {serves}", flush=True)
        since = group.since(whole_at)
        for node in group.nodes:
            ready = node.ready_since(since)
            lines = len(node.lines(begin))
            mean, worst = node.cpu_share(begin, end)
            ready = "not ready" if ready is None else f"ready {ready - since:.1f} s"
            print(f"{'':13}{node.name:11} {ready}, {lines} log lines, CPU {mean:.2f} (2 s: {worst:.2f})", flush=True)
            for ending in node.endings:
                if ending.at >= begin:
                    print(f"{'':15}ended by itself with status {ending.status}; its last lines:\n{ending.said}", flush=True)
        for asked, ending in self.terms:
            if asked is group and ending.at >= begin:
                self.tell_term(name, group, ending)

    def tell_term(self, name, group, ending):
        status = "KILLED" if ending.status is None else f"status {ending.status}"
        said = ending.said if ending.status else ""
        print(f"{'':15}SIGTERM to {ending.node}: {status} after {ending.took_s:.1f} s  {said}", flush=True)
        if fault := ending.fault():
            self.wrong.append(f"{name}: {group.name}: {fault}")

    def end(self):
        """Stops everything in order, and takes the account of each group."""
        for group in self.fleets:
            group.calls.finish()
        until = time.monotonic() + ANSWER_S
        while any(group.answers.left() for group in self.fleets) and time.monotonic() < until:
            time.sleep(0.2)
        for group in self.fleets:
            for ending in group.stop():
                if ending.status != 0:
                    self.wrong.append(f"the end: {group.name}: {ending.node} ended with status {ending.status}: {ending.said}")
        return self.judge()

    def judge(self):
        """Wrong is: a call lost, answered out of order, or by nobody's asking; a duplicate where delivery is exactly once, and
        too many elsewhere; a group that did not serve in time, or stood for long while the brokers did not; a SIGTERM that
        took too long, or failed without a word."""
        for group in self.fleets:
            account = checker.check(self.arguments.bootstrap, group.topics["results"], group.calls)
            allowed = 0 if group.delivery == "exactly-once" else self.arguments.duplicates_max
            faults = account.faults(allowed)
            self.wrong += [f"{group.name}: {fault}" for fault in faults]
            ended = sum(len(node.endings) for node in group.nodes)
            renewed = f"{group.calls.renewals} clients of the load made anew"
            print(f"{group.name}: {account.calls} calls; {ended} nodes ended by themselves, {renewed}")
            for line in account.tell(self.faults):
                print(f"  {line}")
        self.tell_table()
        for fault in self.wrong:
            print(f"wrong: {fault}")
        took_s = time.monotonic() - self.began
        verdict = f"FAILED ({len(self.wrong)} wrong)" if self.wrong else "passed"
        print(f"{self.NAME}: {verdict}, {len(self.faults)} faults in {took_s:.0f} s", flush=True)
        return 1 if self.wrong else 0

    def tell_table(self):
        print("in seconds, of each group's worst partition: results stood / brokers stood / served again after")
        print(f"{'':22}" + "".join(f"{group.name:>24}" for group in self.fleets))
        for name, groups in self.table.items():
            cells = (f"{results:.1f} / {taken:.1f} / {took_s:.1f}" for results, taken, took_s in groups.values())
            print(f"{name:22}" + "".join(f"{cell:>24}" for cell in cells))
        for group in self.fleets:
            each = [groups[group.name][2] for groups in self.table.values()]
            known = sorted(took_s for took_s in each if took_s < math.inf)
            worst = f", in {known[len(known) // 2]:.1f} s (median), {known[-1]:.1f} s (worst)" if known else ""
            print(f"{group.name}: served again after {len(known)} of {len(each)} faults{worst}")

    def close(self):
        for group in self.fleets:
            group.close()
            group.topics.delete()
