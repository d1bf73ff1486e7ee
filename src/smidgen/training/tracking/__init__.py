"""Trackers: who is told of a training beside the run folder, without ever slowing it down."""

from smidgen.training.tracking.factory import make_forwarders, make_trackers
from smidgen.training.tracking.forwarder import Forwarder, Pace
from smidgen.training.tracking.tracker import Session, Tracker

__all__ = ["Forwarder", "Pace", "Session", "Tracker", "make_forwarders", "make_trackers"]
