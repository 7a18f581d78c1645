"""Search for the files of a data set on this machine, and download of missing ones."""

import os
from dataclasses import dataclass
from pathlib import Path

import pooch

from uncollapse._utils.errors import FileError

# Environment variable with a folder that holds data sets, each in a folder of its own.
DATA_FOLDER_VARIABLE = "UNCOLLAPSE_DATA"


@dataclass(frozen=True)
class Source:
    """Places where the files of a data set may be.

    Attributes:
        folder: its folder under $UNCOLLAPSE_DATA and in the cache.
        url: upstream's address, to which a file name is appended; None if there is no download.
        md5: upstream's hash of each file; None without a download.
        system_folders: where packages of the operating system put the files. Their bytes may
            differ from upstream's.
    """

    folder: str
    url: str | None
    md5: dict[str, str | None]
    system_folders: tuple[str, ...] = ()

    def candidates(self) -> list[Path]:
        """Return the folders that may hold the files, in the order in which they are searched."""
        chosen = os.environ.get(DATA_FOLDER_VARIABLE)
        return [
            *([Path(chosen) / self.folder] if chosen else []),
            *map(Path, self.system_folders),
            self.cache,
        ]

    @property
    def cache(self) -> Path:
        """Folder that keeps downloads."""
        return cache_folder() / self.folder

    @property
    def place(self) -> Path:
        """Folder into which a user puts files that are not for download."""
        parent = os.environ.get(DATA_FOLDER_VARIABLE) or f"${DATA_FOLDER_VARIABLE}"
        return Path(parent) / self.folder

    def find(self, name: str) -> Path | None:
        """Return the path of a file if it is on this machine."""
        paths = (folder / name for folder in self.candidates())
        return next((path for path in paths if path.is_file()), None)

    def fetch(self, name: str) -> Path:
        """Return the path of a file, which is downloaded and checked if it is not on this machine.

        Raises:
            FileError: if there is no download, it fails, or its hash is wrong.
        """
        if (found := self.find(name)) is not None:
            return found
        if self.url is None:
            raise FileError(
                f"{name} is not on this machine and has no download: put it into {self.place}."
            )
        pooch.get_logger().setLevel("WARNING")
        known_hash = f"md5:{self.md5[name]}"
        try:
            return Path(
                pooch.retrieve(
                    self.url + name, known_hash, fname=name, path=self.cache, progressbar=True
                )
            )
        except (OSError, ValueError) as error:  # No connection, or a wrong hash.
            reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise FileError(
                f"{name} is not on this machine and could not be fetched from {self.url} "
                f"({reason}): check the connection, or put the file into {self.candidates()[0]}."
            ) from None


def cache_folder() -> Path:
    """Return the folder that keeps the downloads of all data sets."""
    return Path(pooch.os_cache("uncollapse"))
