"""Finding the files of a data set, and fetching those that are nowhere to be found."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pooch

from uncollapse._utils.errors import FileError

# A folder that holds data sets, each in a folder of its own.
DATA_FOLDER_VARIABLE = "UNCOLLAPSE_DATA"


@dataclass(frozen=True)
class Source:
    """Where the files of a data set live.

    Attributes:
        folder: its folder under $UNCOLLAPSE_DATA and in the cache.
        url: upstream's address, to which a file name is appended; None where there is none to fetch
            from.
        md5: upstream's hash of each file; None where there is no address.
        system_folders: where the packages of operating systems put the files (their bytes may
            differ from upstream's).
    """

    folder: str
    url: str | None
    md5: dict[str, str | None]
    system_folders: tuple[str, ...] = ()

    def candidates(self) -> list[Path]:
        """Folders that may hold the files, in the order in which they are searched."""
        chosen = os.environ.get(DATA_FOLDER_VARIABLE)
        return [
            *([Path(chosen) / self.folder] if chosen else []),
            *map(Path, self.system_folders),
            self.cache,
        ]

    @property
    def cache(self) -> Path:
        """Where downloads are kept."""
        return cache_folder() / self.folder

    def find(self, name: str) -> Path | None:
        """The file, if it is on this machine."""
        return next(
            (folder / name for folder in self.candidates() if (folder / name).is_file()), None
        )

    def fetch(self, name: str) -> Path:
        """The file, downloaded and checked against its hash if it is not on this machine.

        Raises:
            InputError: if there is nowhere to fetch it from, the download fails or its hash is
                wrong.
        """
        found = self.find(name)
        if found is not None:
            return found
        if self.url is None:
            raise FileError(
                f"{name} is neither on this machine nor for download: put it into {self.place}."
            )
        try:
            pooch.get_logger().setLevel("WARNING")
            return Path(
                pooch.retrieve(
                    self.url + name,
                    f"md5:{self.md5[name]}",
                    fname=name,
                    path=self.cache,
                    progressbar=True,
                )
            )
        except (
            OSError,
            ValueError,
        ) as error:  # requests' errors are OSErrors, a wrong hash is a ValueError
            raise FileError(
                f"{name} is not on this machine and could not be fetched from {self.url} "
                f"({_reason(error)}): check the "
                f"connection, or put the file into {self.candidates()[0]}."
            ) from None

    @property
    def place(self) -> Path:
        """Where files belong that cannot be fetched."""
        return (
            Path(os.environ.get(DATA_FOLDER_VARIABLE) or f"${DATA_FOLDER_VARIABLE}") / self.folder
        )


def cache_folder() -> Path:
    """Where the downloads of all data sets are kept."""
    return Path(pooch.os_cache("uncollapse"))


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
