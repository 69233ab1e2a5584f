//! temporary
use crate::{world::*, error::Failure};
/// t
pub struct Rehearsal; 
/// t
#[derive(Default)] pub struct Options { /// t 
pub faults: Vec<Fault>, /// t 
pub world_file: Option<std::path::PathBuf> }
/// t
pub struct Fault;
impl Fault { /// t
pub fn parse(t:&str)->Result<Fault,Failure>{ Err(Failure::usage(t)) } }
impl Rehearsal { /// t
pub fn new(_o: Options)->Result<Self,Failure>{ Ok(Rehearsal) } /// t
pub fn world(&self)->World { crate::tools::real_world() } /// t
pub fn inject(&self,_f:Fault){} /// t
pub fn save(&self)->Result<(),Failure>{Ok(())} }
