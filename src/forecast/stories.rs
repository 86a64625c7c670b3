//! What the forecaster learns of those who announce.
use super::*;
