"""Packaging of tfrl: what it needs, and the extras a user may add.

The numbers here are the bounds within which tfrl is meant to work. The exact set it is tested with,
with hashes, is in requirements/ (`make` installs from there; requirements/lock.py writes it).
"""

import pathlib
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).parent

INSTALL_REQUIRES = [
    # dm-reverb 0.14.0 is its newest release and loads with TensorFlow 2.15 only; the next six lines
    # follow from that. tfrl/versions.py checks them again at import.
    "tensorflow==2.15.1",
    "keras>=2.15,<2.16",
    "tensorflow-probability==0.23.0",
    "dm-reverb==0.14.0",
    "numpy>=1.26,<2",
    "protobuf>=4.25,<5",
    "wrapt<1.15",
    "tensorboard>=2.15,<2.16",
    # tensorboard 2.15 imports pkg_resources, which setuptools 81 no longer has.
    "setuptools>=70.1,<81",
    "gymnasium>=1.1,<2",
    "absl-py>=2.0",
    "cloudpickle>=3.0",
    "matplotlib>=3.8",
    "rich>=13.0",
]

EXTRAS = {
    # ale-py carries the ROMs and its own C++ vector environment; gymnasium's AtariPreprocessing
    # resizes with OpenCV.
    "atari": ["ale-py>=0.11", "opencv-python-headless>=4.8"],
    "box2d": ["gymnasium[box2d]>=1.1,<2"],
    "mujoco": ["mujoco>=3.1", "imageio>=2.14"],
    # DeepMind's control suite as gymnasium environments, ids like dm_control/cartpole-balance-v0. dm_control 1.0.50
    # does not load with mujoco 4, although it asks for no less; the locks may have that, so it is not among them.
    "dm_control": ["shimmy[dm-control]>=2.0,<3", "mujoco>=3.1,<4"],
    # The environments with goals of Plappert et al. 2018, mazes, hands and a kitchen. Version 1.4.2 does not work with
    # the mujoco of the locks, although it asks for no less; so it is not among them.
    "robotics": ["gymnasium-robotics>=1.4,<2", "mujoco>=3.1,<3.11"],
    # No release of EnvPool for Python 3.10 works with gymnasium alone: there this extra is empty.
    "envpool": ['envpool>=1.0; python_version >= "3.11"'],
    # MinAtar is under the GPL; nothing of tfrl needs it or holds any of it.
    "minatar": ["MinAtar>=1.0.15"],
    "minigrid": ["minigrid>=3.0"],
    # Teams of agents, see docs/teams.md; mpe2 has the particle environments that the recorded runs use.
    "teams": ["pettingzoo>=1.24", "mpe2>=1.0"],
    "ray": ["ray>=2.9,<3"],
    "video": ["moviepy>=2.0", "imageio-ffmpeg", "pygame-ce"],
    "tune": ["optuna>=4.0"],
    # Trackers of runs, see tfrl/trackers.py; not among the locked packages.
    "wandb": ["wandb>=0.16"],
    "mlflow": ["mlflow>=2.10"],
    # For benchmarks/large_batch/digits.py alone; not among the locked packages.
    "sklearn": ["scikit-learn>=1.3"],
    # About 2 GB of CUDA libraries, all pinned by TensorFlow itself.
    "gpu": ["tensorflow[and-cuda]==2.15.1"],
    "dev": ["psutil>=5.9", "pytest>=8.0", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "ruff>=0.6"],
}


class BuildWithConfigs(build_py):
    """Puts `configs/` into the package, where an installed tfrl finds it."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = pathlib.Path(self.build_lib) / "tfrl" / "configs"
            shutil.copytree(HERE / "configs", target, dirs_exist_ok=True)


setup(
    name="tfrl",
    version="0.1.0",
    description="Reinforcement learning on TensorFlow 2, Keras, Reverb and gymnasium",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.12",
    packages=find_packages(include=["tfrl", "tfrl.*"]),
    package_data={"tfrl": ["py.typed"]},
    cmdclass={"build_py": BuildWithConfigs},
    entry_points={"console_scripts": ["tfrl=tfrl.cli:main"]},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
)
