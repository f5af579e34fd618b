"""campaign.py: what the scripts of numbered models have in common: their arguments, and the loop that tries each number and prints what fails."""
import argparse
import itertools
import os
import shutil
import sys
import tempfile


def main(about, check, more=()):
    """check(octet, levels, number, folder) says what is wrong with a model whose files it leaves in the folder, or None. more: numbers that are always tried."""
    p = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('first', type=int)
    p.add_argument('last', type=int)
    p.add_argument('--octet', default='octet')
    p.add_argument('--levels', default='native portable', help='what --target may be: levels that this machine runs')
    p.add_argument('--keep', help='copy the models that fail there')
    args = p.parse_args()
    tried = failed = 0
    for number in itertools.chain(range(args.first, args.last), more):
        with tempfile.TemporaryDirectory() as folder:
            wrong = check(args.octet, args.levels.split(), number, folder)
            if wrong and args.keep: shutil.copytree(folder, os.path.join(args.keep, str(number)))
        if wrong: print(f'FAIL {number}: {wrong.replace(folder + "/", "")}', flush=True)
        tried, failed = tried + 1, failed + (wrong is not None)
    print(f'{tried - failed} passed, {failed} failed')
    sys.exit(1 if failed else 0)
