//! The comparison with a trail's anchors when it is opened, and the builder's named exceptions.
//!
//! This module knows what anchors are asked, and which answer refuses the opening. It does not know
//! how an anchor is called, or how checkpoints are compared.

use std::sync::Arc;

use super::super::anchor::{Anchors, Earlier, Known, Refuted};
use super::super::builder::TrailBuilder;
use super::super::storage::Storage;
use super::super::threads::Instant;
use super::{End, OpenError, failed};
use crate::application::Application;

impl<A: Application> TrailBuilder<A> {
    /// Lets a new trail begin although an anchor knows `origin`, an earlier trail of this worker.
    /// May be called again for others.
    ///
    /// Without it, opening fails if an anchor knows another trail of this worker and not this one
    /// ([`OpenError::OtherOrigin`]): the directory of the earlier trail may have been lost or
    /// exchanged. Keep the exception until the anchor keeps a checkpoint of the new trail.
    /// `TrailOpened` lists these origins.
    pub fn new_origin_beside(mut self, origin: impl Into<String>) -> Self {
        self.settings.new_origin_beside.push(origin.into().into());
        self
    }

    /// Ignores a checkpoint of the anchor `name` that does not fit the trail and that no given key
    /// has signed. May be called again for other anchors.
    ///
    /// Without it, opening fails if such a checkpoint covers more records than the trail has
    /// ([`OpenError::UnverifiableAnchor`]); a smaller one counts as a failure of the anchor. With
    /// it, a trail that was cut back across a change of its key is opened. Then only `TrailOpened`
    /// and `AnchorPartlyCompared` ever show that.
    pub fn dangerous_ignore_unverifiable_anchor(mut self, name: impl Into<String>) -> Self {
        let names = &mut self.settings.ignored_unverifiable_anchors;
        names.push(name.into().into());
        self
    }

    /// Starts the anchors, and waits until they have compared what they remember with the trail on
    /// disk, at most the critical deadline.
    pub(super) fn ask_anchors<S: Storage>(
        &mut self,
        storage: &S,
        segments: Vec<u64>,
        end: &End<A>,
    ) -> Result<Anchors, OpenError> {
        let path = self.dir.clone();
        let io = |operation| failed(&path, operation);
        let origin = end.verifier.name();
        let keys = self
            .previous(origin)
            .into_iter()
            .chain([self.verifier(origin)]);
        let earlier = match &end.position {
            None => None,
            Some(position) => Some(Arc::new(Earlier {
                keys: keys.collect(),
                segments,
                end: position.clone(),
                reader: storage.reader().map_err(io("read the segments in"))?,
            })),
        };
        let known = Known {
            origin: origin.to_owned(),
            worker: self.worker.to_string(),
            earlier,
            beside: self.settings.new_origin_beside.clone(),
            unverifiable: self.settings.ignored_unverifiable_anchors.clone(),
        };
        let anchors = std::mem::take(&mut self.anchors);
        let anchors = Anchors::start(anchors, known, self.settings.schedule())
            .map_err(io("start the anchors of"))?;
        let asked = Instant::now();
        let deadline = asked.checked_add(self.settings.critical_deadline);
        match anchors.wait_compared(deadline.unwrap_or(asked)) {
            None => Ok(anchors),
            Some((anchor, refuted)) => Err(self.refused(&anchor, refuted)),
        }
    }

    fn refused(&self, anchor: &str, refuted: Refuted) -> OpenError {
        let (path, anchor) = (self.dir.clone(), anchor.to_owned());
        match refuted {
            Refuted::Contradicts {
                checkpoint,
                contradiction,
            } => OpenError::Contradicts {
                path,
                anchor,
                size: checkpoint.size(),
                contradiction,
            },
            Refuted::OtherOrigin(origin) => OpenError::OtherOrigin {
                path,
                anchor,
                origin,
            },
            Refuted::Unverifiable(checkpoint) => OpenError::UnverifiableAnchor {
                path,
                anchor,
                size: checkpoint.size(),
            },
        }
    }
}
