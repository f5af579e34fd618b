"""check.py OCTET: see run.sh. Plain Python 3, from the repository's root."""
import difflib
import os
import re
import subprocess
import sys
import tempfile

COMMANDS = ["compile", "quantize", "run", "verify", "inspect", "bench", "operators"]
BEGIN, END = "<!-- options: octet %s --help -->\n", "<!-- end -->\n"
PAGES = ["README.md", "CONTRIBUTING.md"] + sorted("docs/" + f for f in os.listdir("docs") if f.endswith(".md"))


class Checker:
    def __init__(self, octet):
        self.octet, self.bless = octet, os.environ.get("BLESS") == "1"
        self.passed = self.failed = 0

    def run(self, command):
        """What a shell command line prints, `octet` being the program under test; files it makes go to a folder of its own."""
        with tempfile.TemporaryDirectory() as work:
            os.symlink(self.octet, work + "/octet")
            env = dict(os.environ, PATH=work + ":" + os.environ["PATH"], OUT=work, TMPDIR=work, LC_ALL="C")
            done = subprocess.run(["sh", "-c", command], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.stdout

    def page(self, path, render):
        """Compares a page with what render(text) makes of it."""
        with open(path) as f:
            old = f.read()
        new = render(old)
        if self.bless and new != old:
            with open(path, "w") as f:
                f.write(new)
            print("blessed", path)
        if new == old or self.bless:
            self.passed += 1
            return
        print("FAIL", path)
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), path, "now", lineterm="", n=1)
        print("\n".join(list(lines)[:60]))
        self.failed += 1

    def options(self, command):
        """The table of a command's options, from its help text."""
        rows = ["| option | |\n", "| --- | --- |\n"]
        for option, text in re.findall(r"^  (-\S.*)\n      (.*)$", self.run("octet %s --help" % command), re.M):
            rows.append("| `%s` | %s |\n" % (option.replace("|", "\\|"), text))
        return "".join(rows)

    def render_options(self, text):
        for command in COMMANDS:
            begin = BEGIN % command
            if begin not in text:
                print("FAIL docs/CLI.md has no table for", command)
                self.failed += 1
                continue
            head, rest = text.split(begin, 1)
            text = head + begin + "\n" + self.options(command) + "\n" + END + rest.split(END, 1)[1]
        return text

    def render_blocks(self, text):
        def block(m):
            return "```console\n$ %s\n%s```\n" % (m[1], self.run(m[1]))
        return re.sub(r"```console\n\$ (octet [^\n]*)\n.*?```\n", block, text, flags=re.S)

    def links(self, path):
        """Relative links must lead to files."""
        with open(path) as f:
            text = re.sub(r"```.*?```", "", f.read(), flags=re.S)
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            if not os.path.exists(os.path.join(os.path.dirname(path), target)):
                print("FAIL %s: link to %s" % (path, target))
                self.failed += 1


def main(octet):
    c = Checker(octet)
    c.page("docs/OPERATORS.md", lambda old: c.run("octet operators"))
    c.page("docs/CLI.md", c.render_options)
    for path in PAGES:
        c.page(path, c.render_blocks)
        c.links(path)
    print("%d passed, %d failed" % (c.passed, c.failed))
    return 1 if c.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
